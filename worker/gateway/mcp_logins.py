"""Logins at MCP servers: opened for a turn, renewed at their services.

Only here and in `agcluster mcp login` is a login ever open. What a service answers is bounded, and
where it is asked was found when the operator logged in; a redirect is an error.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import OrderedDict
from urllib.parse import quote, urlsplit

import aiohttp

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.runtime.sealing import LoginSealer
from infra.wire.mcp.logins import (
    LOGIN_MAX_BYTES,
    McpLogin,
    OpenLogin,
    RenewedLogin,
    RenewLogin,
    SealedLogin,
)

log = logging.getLogger(__name__)

RENEW_TIMEOUT_S = 15.0
KEPT_MAX = 100
"""Renewals that are remembered, for a worker that has not heard of its own."""

LOGIN_OVER = "its service does not renew it; log in again"
SERVICE_FAILED = "its service did not answer"


class ServiceFailed(Exception):
    """The service gave no token; the message says why, in our words."""


class McpLoginDesk:
    """Opens and renews logins."""

    def __init__(self, sealer: LoginSealer, clock: Clock, group: asyncio.TaskGroup) -> None:
        """Renewals run in `group`."""
        self._group = group
        self._sealer = sealer
        self._clock = clock
        self._renewed: OrderedDict[str, RenewedLogin] = OrderedDict()
        self._renewing: dict[str, asyncio.Task[RenewedLogin]] = {}

    def open(self, login: OpenLogin) -> McpLogin:
        """Raises `KeyNotOpened`."""
        return self._sealer.open(login.sealed, login.name)

    async def renew(self, command: RenewLogin) -> RenewedLogin:
        """Ask its service for a new token. Asking again with the same login gives the same answer.

        Once begun, it goes on if its asker is cancelled: what the service answers makes the login
        of before worthless. Raises `KeyNotOpened`.
        """
        if (known := self._renewed.get(command.sealed)) is not None:
            return known
        if (renewing := self._renewing.get(command.sealed)) is None:
            login = self._sealer.open(command.sealed, command.name)
            renewing = self._group.create_task(self._renew(command, login))
            self._renewing[command.sealed] = renewing
            renewing.add_done_callback(lambda _: self._renewing.pop(command.sealed))
        return await asyncio.shield(renewing)

    async def settled(self) -> None:
        """Wait for the renewals that have begun, at most `RENEW_TIMEOUT_S`."""
        if self._renewing:
            await asyncio.wait(set(self._renewing.values()))

    async def _renew(self, command: RenewLogin, login: McpLogin) -> RenewedLogin:
        try:
            new = _renewed(login, await _asked(login), now_s=self._clock.unix_ms() // 1000)
        except ServiceFailed as error:
            log.warning("mcp login not renewed", extra=fields(login=command.name, reason=error))
            fault = str(error)
            return RenewedLogin(login=self._kept(command.name, login, command.sealed, fault))
        log.info("mcp login renewed", extra=fields(login=command.name))
        sealed = self._sealer.seal(new, command.name)
        answer = RenewedLogin(login=self._kept(command.name, new, sealed, None))
        self._renewed[command.sealed] = answer
        while len(self._renewed) > KEPT_MAX:
            self._renewed.popitem(last=False)
        return answer

    def _kept(self, name: str, login: McpLogin, sealed: str, fault: str | None) -> SealedLogin:
        return SealedLogin(
            sealed=sealed,
            expires_ms=login.expires_s * 1000 if login.expires_s is not None else None,
            can_renew=login.refresh_token is not None and fault != LOGIN_OVER,
            made_ms=self._clock.unix_ms(),
            fault=fault,
        )


async def _asked(login: McpLogin) -> dict[str, object]:
    """What the service answers. Raises `ServiceFailed`."""
    if login.refresh_token is None or urlsplit(login.token_endpoint).scheme not in (
        "http",
        "https",
    ):
        raise ServiceFailed(LOGIN_OVER)
    timeout = aiohttp.ClientTimeout(total=RENEW_TIMEOUT_S)
    form, headers = _form(login)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(
                login.token_endpoint, data=form, headers=headers, allow_redirects=False
            ) as answer,
        ):
            raw = await _read(answer.content)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ServiceFailed(SERVICE_FAILED) from error
    if answer.status in (400, 401, 403):
        raise ServiceFailed(LOGIN_OVER)
    try:
        told = json.loads(raw) if answer.status == 200 else None
    except (ValueError, RecursionError) as error:
        raise ServiceFailed(SERVICE_FAILED) from error
    if not isinstance(told, dict):
        raise ServiceFailed(SERVICE_FAILED)
    return told


async def _read(content: aiohttp.StreamReader) -> bytes:
    """All of it, up to the bound: one read gives what has come so far."""
    raw = b""
    while piece := await content.read(LOGIN_MAX_BYTES - len(raw)):
        raw += piece
    return raw


def _form(login: McpLogin) -> tuple[dict[str, str], dict[str, str]]:
    """The request for a new token (RFC 6749, sections 6 and 2.3.1)."""
    form = {
        "grant_type": "refresh_token",
        "refresh_token": login.refresh_token or "",
        "client_id": login.client_id,
    }
    headers = {"Accept": "application/json"}
    if login.is_resource_named:
        form["resource"] = login.url
    if login.client_secret is not None and login.client_auth == "client_secret_post":
        form["client_secret"] = login.client_secret
    if login.client_secret is not None and login.client_auth == "client_secret_basic":
        pair = f"{quote(login.client_id, safe='')}:{quote(login.client_secret, safe='')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return form, headers


def _renewed(login: McpLogin, told: dict[str, object], *, now_s: int) -> McpLogin:
    """The login with the answer's tokens. Raises `ServiceFailed`."""
    token, refresh, lasts_s = (
        told.get(name) for name in ("access_token", "refresh_token", "expires_in")
    )
    if not (isinstance(token, str) and is_token(token)):
        raise ServiceFailed(SERVICE_FAILED)
    is_time = isinstance(lasts_s, int | float) and 0 < lasts_s < 2**31
    return login.model_copy(
        update={
            "access_token": token,
            # A service that gives no new one lets the old one live.
            "refresh_token": refresh if isinstance(refresh, str) else login.refresh_token,
            "expires_s": now_s + int(lasts_s) if is_time else None,  # type: ignore[call-overload]
        }
    )


def is_token(text: str) -> bool:
    """Whether it can stand in a header."""
    return 0 < len(text) <= 16_000 and text.isascii() and text.isprintable() and " " not in text
