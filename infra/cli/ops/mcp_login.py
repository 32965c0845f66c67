"""Logs an operator in at an MCP server: discovery, registration, consent in a browser, tokens.

All of that is the `mcp` package's own client. Here are the page that the browser comes back to, on
loopback, and what is kept of the outcome. `mcp` is an extra of ours. Nothing else needs
it outside of containers, so it is imported when it is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from infra.wire.errors import AgClusterError
from infra.wire.mcp.logins import McpLogin

if TYPE_CHECKING:
    from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthToken

CALLBACK_PATH = "/callback"
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"You are logged in. This page can be closed.\n"
)
_ASKS = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "agcluster", "version": "1"},
    },
}
_HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}


class LoginFailed(AgClusterError):
    """There is no login; the message says why."""


class ReturnPage:
    """Where the browser comes back to: a port of loopback, for one request that counts."""

    def __init__(self) -> None:
        self.url = ""
        self._came: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def open(self, port: int) -> AsyncIterator[ReturnPage]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=16 * 1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{CALLBACK_PATH}"
        try:
            yield self
        finally:
            server.close()

    async def came_back(self, timeout_s: float) -> dict[str, str]:
        """What the browser brings. Raises `LoginFailed`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._came
        except TimeoutError:
            raise LoginFailed(f"nobody came back from the login within {timeout_s:g} s") from None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode("latin-1")
            parts = urlsplit([*line.split(" "), "", ""][1])
            if parts.path == CALLBACK_PATH and not self._came.done():
                told = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._came.set_result(told)
            writer.write(_ANSWER)
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # It was somebody else than the browser.
        finally:
            writer.close()


class _Kept:
    """What the client of `mcp` keeps during one login."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


async def log_in(
    url: str, *, say: Callable[[str], None], port: int = 0, timeout_s: float = 600.0
) -> McpLogin:
    """A login at the server of that URL. `say` is told the address to open in a browser; `port` is
    where it comes back to, 0 for any. Raises `LoginFailed`."""
    try:
        import httpx2
        from mcp.client.auth import OAuthClientProvider, OAuthFlowError
        from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata
    except ImportError:
        raise LoginFailed("this needs the package `mcp`: pip install 'agcluster[mcp]'") from None

    kept = _Kept()
    async with ReturnPage().open(port) as page:

        async def show(address: str) -> None:
            say(f"Open this address in a browser:\n{address}")

        async def back() -> AuthorizationCodeResult:
            told = await page.came_back(timeout_s)
            if "code" not in told:
                raise LoginFailed("the login was refused")
            return AuthorizationCodeResult(
                code=told["code"], state=told.get("state"), iss=told.get("iss")
            )

        metadata = OAuthClientMetadata.model_validate(
            {"client_name": "AgCluster", "redirect_uris": [page.url]}
        )
        provider = OAuthClientProvider(url, metadata, kept, show, back)
        try:
            async with httpx2.AsyncClient(auth=provider, timeout=30.0) as http:
                answer = await http.post(url, json=_ASKS, headers=_HEADERS)
        except (httpx2.HTTPError, OAuthFlowError) as error:
            raise LoginFailed(f"the login failed: {type(error).__name__}: {error}") from error
    if kept.tokens is None:
        raise LoginFailed(f"the server asks for no login (it answered {answer.status_code})")
    if answer.status_code >= 400:
        raise LoginFailed(f"the server does not take its own token ({answer.status_code})")
    return _login(url, kept, provider)


def _login(url: str, kept: _Kept, provider: Any) -> McpLogin:
    tokens, client = kept.tokens, kept.client
    assert tokens is not None
    if client is None or not client.client_id:
        raise LoginFailed("the service registered no client")
    lasts_s = tokens.expires_in
    method = client.token_endpoint_auth_method or "none"
    return McpLogin.model_validate(
        {
            "url": url,
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "expires_s": int(time.time()) + int(lasts_s) if lasts_s else None,
            "token_endpoint": token_endpoint(url, provider._get_token_endpoint()),
            "client_id": client.client_id,
            "client_secret": client.client_secret,
            "client_auth": method if client.client_secret else "none",
            "scope": tokens.scope,
            "is_resource_named": provider.context.should_include_resource_param("2025-11-25"),
        }
    )


def token_endpoint(url: str, told: str) -> str:
    """Where the login is renewed, as the server of that URL has told. Raises `LoginFailed` if that
    would send in the clear what the server itself gets encrypted."""
    if urlsplit(url).scheme == "https" and urlsplit(told).scheme != "https":
        raise LoginFailed("the server names a service for its tokens that is not asked by https")
    return told
