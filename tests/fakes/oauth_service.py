"""A real MCP server that asks for a login, and the OAuth service that gives one.

    with oauth_service(folder) as service:
        ... service.url ...
        assert service.events("token")

The service is of the kind that MCP's specification describes: metadata (RFC 9728 and 8414), dynamic
registration, PKCE, consent without a question, tokens of a short life, and a new refresh token each
time, which makes the one before worthless. `python -m tests.fakes.oauth_service PORT LOG SECONDS`
serves it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.mcp_server import ROOT, echo_server, free_port, wait_for


@dataclass(frozen=True)
class OAuthService:
    """Where its MCP server is, and what it was asked."""

    url: str
    log: Path

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What happened, of that kind: `register`, `authorize`, `token`, `refresh`, `mcp`."""
        told = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [one for one in told if one["kind"] == kind]


@contextlib.contextmanager
def oauth_service(folder: Path, *, token_s: int = 3600) -> Iterator[OAuthService]:
    """On a free port of loopback. `token_s`: how long a token lives."""
    port, log = free_port(), folder / "oauth.log"
    log.touch()
    command = [sys.executable, "-m", "tests.fakes.oauth_service", str(port), str(log), str(token_s)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(port, process)
        yield OAuthService(f"http://127.0.0.1:{port}/mcp", log)
    finally:
        process.terminate()
        process.wait(10)


def log_in(command: Sequence[str], env: Mapping[str, str]) -> str:
    """Run `agcluster mcp login ...` with somebody at the browser; what it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.cli.main", "mcp", "login", *command],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")}, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while not (found := re.search(r"^http\S+$", said, re.MULTILINE)):
        line = process.stdout.readline()
        assert line, said
        said += line
    answer = httpx.get(found[0], follow_redirects=True)
    assert answer.text.startswith("You are logged in")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    return said + out


class _Service:
    """Its clients, codes and tokens."""

    def __init__(self, base: str, log: Path, token_s: int) -> None:
        self.base = base
        self._log = log
        self._token_s = token_s
        self.codes: dict[str, str] = {}
        self.tokens: set[str] = set()
        self.refreshers: set[str] = set()

    def note(self, kind: str, **told: object) -> None:
        with self._log.open("a") as file:
            file.write(json.dumps({"kind": kind, **told}) + "\n")

    def grant(self) -> dict[str, object]:
        """A new pair; the tokens of before are worth nothing."""
        token, refresher = f"token-{secrets.token_hex(8)}", f"refresh-{secrets.token_hex(8)}"
        self.tokens, self.refreshers = {token}, {refresher}
        return {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self._token_s,
            "refresh_token": refresher,
        }


def _serve(port: int, log: Path, token_s: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, RedirectResponse, Response
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send

    service = _Service(f"http://127.0.0.1:{port}", log, token_s)
    base = service.base

    async def resource(request: Request) -> Response:
        return JSONResponse({"resource": f"{base}/mcp", "authorization_servers": [base]})

    async def metadata(request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": base,
                "authorization_endpoint": f"{base}/authorize",
                "token_endpoint": f"{base}/token",
                "registration_endpoint": f"{base}/register",
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code", "refresh_token"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["none"],
            }
        )

    async def register(request: Request) -> Response:
        asked = await request.json()
        service.note("register", name=asked.get("client_name"))
        told = {**asked, "client_id": "client-1", "token_endpoint_auth_method": "none"}
        return JSONResponse(told, status_code=201)

    async def authorize(request: Request) -> Response:
        asked = request.query_params
        service.note(
            "authorize", resource=asked.get("resource"), method=asked["code_challenge_method"]
        )
        code = secrets.token_hex(8)
        service.codes[code] = asked["code_challenge"]
        return RedirectResponse(f"{asked['redirect_uri']}?code={code}&state={asked['state']}")

    async def token(request: Request) -> Response:
        form = await request.form()
        if form["grant_type"] == "refresh_token":
            is_good = form["refresh_token"] in service.refreshers
            service.note("refresh", is_good=is_good, resource=form.get("resource"))
        else:
            digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            is_good = service.codes.pop(str(form["code"]), None) == challenge
            service.note("token", is_good=is_good)
        if not is_good:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        return JSONResponse(service.grant())

    inner = Starlette(
        routes=[
            Route("/.well-known/oauth-protected-resource/mcp", resource),
            Route("/.well-known/oauth-authorization-server", metadata),
            Route("/register", register, methods=["POST"]),
            Route("/authorize", authorize),
            Route("/token", token, methods=["POST"]),
        ]
    )
    server = echo_server().streamable_http_app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/mcp":
            await (server if scope["type"] == "lifespan" else inner)(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        given = headers.get("authorization", "").removeprefix("Bearer ")
        service.note("mcp", is_right=given in service.tokens)
        if given in service.tokens:
            await server(scope, receive, send)
            return
        where = f'Bearer resource_metadata="{base}/.well-known/oauth-protected-resource/mcp"'
        refused = Response("no", status_code=401, headers={"WWW-Authenticate": where})
        await refused(scope, receive, send)

    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
