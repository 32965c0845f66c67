"""The logins that a turn's agent has at its MCP servers, renewed before they end.

Every worker may renew one, through its gateway, and only one does: a service's answer makes the
token of before worthless.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.mcp_logins import McpLogins
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
from infra.wire.errors import GatewayUnavailable, StoreUnavailable
from infra.wire.gateway import OpenTurn
from infra.wire.mcp.logins import OpenLogin, RenewedLogin, RenewLogin, SealedLogin, login_name
from worker.turns.run import TurnRun
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)

RENEW_BEFORE_MS = 10 * 60 * 1000
"""A token that ends sooner is renewed, or one with less than half of its life left."""
LOOK_S = 30.0
"""How often a running turn's logins are looked after."""
AGAIN_AFTER_MS = 60 * 1000
"""A renewal that failed is not tried again before."""
WAIT_S = 5.0
_LOOK_EVERY_S = 0.2


class RenewsLogins(Protocol):
    """This host's gateway."""

    async def renew_login(self, command: RenewLogin) -> RenewedLogin:
        """Raises `GatewayUnavailable`."""
        ...


class OpensTurns(Protocol):
    """The same."""

    async def open_turn(self, request: OpenTurn) -> None:
        """Raises `GatewayUnavailable` and `LeaseLost`."""
        ...


class TurnLogins:
    """Finds and renews the logins of turns."""

    def __init__(self, logins: McpLogins, gateway: RenewsLogins, clock: Clock) -> None:
        self._logins = logins
        self._gateway = gateway
        self._clock = clock

    async def of(
        self, agent: AgentRef | None, profile: AgentProfile | None
    ) -> Mapping[str, OpenLogin]:
        """By the names of the servers; those that there are. Never raises: a turn without a login
        is better than none."""
        wanted = {
            login_name(agent.name, server): server
            for server, told in (profile.mcp_servers.items() if profile and agent else ())
            if told.login and agent
        }
        try:
            kept = await self._logins.of(wanted) if wanted else {}
            fresh = {name: await self._fresh(name, login) for name, login in kept.items()}
            return {
                wanted[name]: OpenLogin(name=name, sealed=login.sealed)
                for name, login in fresh.items()
                if login is not None
            }
        except StoreUnavailable as error:
            log.warning("mcp logins not read: %s", error)
            return {}

    async def _fresh(self, name: str, login: SealedLogin) -> SealedLogin | None:
        """The login to work with; None if an operator has logged out meanwhile."""
        if not self._is_due(login):
            return login
        if (by := await self._logins.begin_renewal(name)) is None:
            return await self._renewed_by_another(name, login)
        try:
            now = (await self._logins.of([name])).get(name)
            return await self._renewed(name, now) if now and self._is_due(now) else now
        finally:
            with suppress(StoreUnavailable):  # It ends by itself.
                await self._logins.end_renewal(name, by)

    async def _renewed(self, name: str, login: SealedLogin) -> SealedLogin | None:
        try:
            command = RenewLogin(name=name, sealed=login.sealed)
            new = (await self._gateway.renew_login(command)).login
        except GatewayUnavailable as error:
            log.warning("mcp login not renewed: %s", error, extra=fields(login=name))
            return login
        # The one before is worthless now: what is not kept is lost.
        is_kept = await until_store_answers(
            lambda: self._logins.keep_renewed(name, login.sealed, new), self._clock
        )
        return new if is_kept else (await self._logins.of([name])).get(name)

    async def _renewed_by_another(self, name: str, login: SealedLogin) -> SealedLogin | None:
        """As soon as it is done, or as it is if that takes long."""
        end_s = self._clock.monotonic() + WAIT_S
        while self._clock.monotonic() < end_s:
            await self._clock.sleep(_LOOK_EVERY_S)
            now = (await self._logins.of([name])).get(name)
            if now is None or now.made_ms != login.made_ms:
                return now
        return login

    def _is_due(self, login: SealedLogin) -> bool:
        now_ms = self._clock.unix_ms()
        if login.expires_ms is None or not login.can_renew:
            return False
        if login.fault is not None and now_ms < login.made_ms + AGAIN_AFTER_MS:
            return False
        half_ms = max(0, login.expires_ms - login.made_ms) // 2
        return login.expires_ms < now_ms + min(RENEW_BEFORE_MS, half_ms)


class LoginsInTurn:
    """Keeps the logins of a running turn good: its tokens may end before it does, and another
    turn's renewal may have made them worthless."""

    def __init__(
        self,
        logins: TurnLogins,
        gateway: OpensTurns,
        clock: Clock,
        *,
        running: Callable[[], TurnRun | None],
    ) -> None:
        self._logins = logins
        self._gateway = gateway
        self._clock = clock
        self._running = running

    async def run(self) -> None:
        """Look after them until cancelled. Raises `LeaseLost`."""
        while True:
            await self._clock.sleep(LOOK_S)
            run = self._running()
            if run is not None and run.is_agent_working and run.claimed.mcp_logins:
                await self._look_after(run)

    async def _look_after(self, run: TurnRun) -> None:
        logins = await self._logins.of(run.claimed.request.agent, run.claimed.profile)
        # Nothing may come between this and the command: a closed turn would be opened again.
        if not run.take_logins(logins):
            return
        try:
            await self._gateway.open_turn(run.open_request())
        except GatewayUnavailable as error:
            log.warning("logins of a turn not renewed: %s", error, extra=fields(turn=run.turn))
