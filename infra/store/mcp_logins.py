"""Logins at MCP servers, sealed, and who renews one at the moment."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Literal

from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.connection import translate
from infra.store.server.replies import Answer, OkAnswer
from infra.store.server.scripts import Scripts
from infra.wire.errors import MalformedMessage
from infra.wire.mcp.logins import SealedLogin, decode_sealed_login

RENEWAL_S = 30.0
"""How long one worker alone may renew a login."""


class KeepRenewedAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    is_kept: bool


class KeepRenewedCall(Call[KeepRenewedAnswer], frozen=True):
    name: str
    before: str
    login: str


class EndRenewalCall(Call[OkAnswer], frozen=True):
    by: str


class McpLogins:
    """By the name of the login (`infra.wire.mcp.logins.login_name`). All raise
    `StoreUnavailable`."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def of(self, names: Iterable[str]) -> dict[str, SealedLogin]:
        """Those of these names that there are. One that cannot be read is none."""
        wanted = list(names)
        if not wanted:
            return {}
        with translate():
            raws = await self._redis.hmget(self._keys.mcp_logins(), wanted)  # type: ignore[misc]
        found = {}
        for name, raw in zip(wanted, raws, strict=True):
            try:
                if raw is not None:
                    found[name] = decode_sealed_login(raw)
            except MalformedMessage:
                continue
        return found

    async def keep(self, name: str, login: SealedLogin) -> None:
        with translate():
            await self._redis.hset(self._keys.mcp_logins(), name, login.encode().decode())  # type: ignore[misc]

    async def keep_renewed(self, name: str, before: str, login: SealedLogin) -> bool:
        """Keep it in the place of the one that was sealed as `before`. Returns whether that one was
        still there, or this one is already: an operator may have logged out meanwhile."""
        told = login.encode().decode()
        call = KeepRenewedCall(name=name, before=before, login=told)
        return (await self._scripts.run(call, logins=self._keys.mcp_logins())).is_kept

    async def drop(self, name: str) -> bool:
        """Returns whether there was one."""
        with translate():
            return bool(await self._redis.hdel(self._keys.mcp_logins(), name))  # type: ignore[misc]

    async def begin_renewal(self, name: str) -> str | None:
        """What `end_renewal` wants, if it is the caller's to renew it now; otherwise None. Two
        renewals at once would make each other's tokens worthless. Ends by itself after
        `RENEWAL_S`."""
        by = secrets.token_hex(8)
        with translate():
            is_ours = await self._redis.set(
                self._keys.mcp_renewal(name), by, nx=True, px=round(RENEWAL_S * 1000)
            )
        return by if is_ours else None

    async def end_renewal(self, name: str, by: str) -> None:
        await self._scripts.run(EndRenewalCall(by=by), renewal=self._keys.mcp_renewal(name))
