"""The worker's view of its host's gateway: the protocol, and what has to be open there.

`Gateway` has the commands of the control socket as methods (`worker.gateway_client.client`,
`tests.fakes.memory_gateway`). `GatewayRegistrar` remembers what this worker opened and opens it
again when the gateway restarts: a new gateway knows no sessions, and the agents' model calls would
fail until then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.wire.errors import GatewayUnavailable, LeaseLost
from infra.wire.gateway import (
    GatewayFault,
    GatewayStatus,
    Meters,
    OpenSession,
    OpenTurn,
    SealedKey,
    SealKey,
    SideCall,
    TurnMeter,
    UpstreamHealth,
)
from infra.wire.ids import ConversationKey, Fence, TurnId
from infra.wire.mcp.logins import RenewedLogin, RenewLogin
from worker.gateway_client.client import CommandRefused, UpstreamAnswer

log = logging.getLogger(__name__)

UPSTREAM_PATIENCE_S = 5.0
"""Seconds for which the model's service may not answer before a turn ends for it."""
UPSTREAM_PAUSE_S = 1.0
_METERS_AGE_S = 1.0
"""All turns of a worker share one reading of the gateway's meters."""

_Answer = TypeVar("_Answer")


class Gateway(Protocol):
    """The gateway's control socket. Every call has a deadline and may be repeated.

    All raise `GatewayUnavailable`.
    """

    async def open_session(self, conversation: ConversationKey, request: OpenSession) -> object:
        """Create the session's sockets."""
        ...

    async def close_session(self, conversation: ConversationKey, fence: Fence) -> object:
        """Close its sockets and wipe its keys. It is not an error if the session is not open.

        Refused if an owner newer than `fence` has opened it.
        """
        ...

    async def open_turn(self, request: OpenTurn) -> object:
        """Allow the turn's model calls."""
        ...

    async def close_turn(self, conversation: ConversationKey, turn: TurnId) -> TurnMeter:
        """Stop model calls and wipe the key. Returns what the turn used."""
        ...

    async def seal_key(self, request: SealKey) -> SealedKey:
        """The key of an open turn, sealed for the turn of an agent that it calls."""
        ...

    async def renew_login(self, command: RenewLogin) -> RenewedLogin:
        """A login at an MCP server, renewed at its service."""
        ...

    async def meters(self) -> Meters:
        """What the host's running turns have used so far."""
        ...

    def complete(self, call: SideCall) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """One model call without an agent; leaving the block ends it."""
        ...

    async def status(self) -> GatewayStatus:
        """Its status; `instance` is new after a restart."""
        ...

    async def ask_upstream(self) -> UpstreamHealth | None:
        """Whether the model's service answers, asked now; None if nobody can say."""
        ...


class GatewayRegistrar:
    """What this worker has open at the gateway, kept open across the gateway's restarts."""

    def __init__(
        self,
        gateway: Gateway,
        clock: Clock,
        *,
        patience_s: float = 5.0,
        check_every_s: float = 0.5,
        on_superseded: Callable[[ConversationKey, Fence], None] = lambda c, fence: None,
    ) -> None:
        """`on_superseded` is called for a session of ours that a newer owner has opened."""
        self._gateway = gateway
        self._on_superseded = on_superseded
        self._clock = clock
        self._patience_s = patience_s
        self._check_every_s = check_every_s
        self._sessions: dict[ConversationKey, OpenSession] = {}
        self._turns: dict[ConversationKey, OpenTurn] = {}
        self._instance: str | None = None
        self._meters: Meters | None = None
        self._metered_s = 0.0
        self._metering = asyncio.Lock()
        self.upstream: UpstreamHealth | None = None
        """What the gateway last said of the model's service."""

    async def open_session(self, c: ConversationKey, *, sockets: Path, fence: Fence) -> None:
        """Create the session's sockets.

        Raises `GatewayUnavailable` after a few seconds, and `LeaseLost` if a newer owner has it.
        """
        request = OpenSession(socket_dir=str(sockets), fence=fence)
        self._sessions[c] = request
        with self._noticing(c, fence):
            await self._patiently(lambda: self._gateway.open_session(c, request))

    async def open_turn(self, request: OpenTurn) -> None:
        """Allow a turn's model calls.

        Raises `GatewayUnavailable` after a few seconds, `CommandRefused` at once, and `LeaseLost`
        if a newer owner has the session.
        """
        c = request.conversation
        self._turns[c] = request
        with self._noticing(c, request.fence):
            try:
                await self._gateway.open_turn(request)
            except CommandRefused as refused:
                if refused.fault is not GatewayFault.NO_SESSION:
                    raise
                await self._patiently(lambda: self._reopen(c))
            except GatewayUnavailable:
                # It may be restarting, and then does not know the session.
                await self._patiently(lambda: self._reopen(c))

    async def close_turn(self, c: ConversationKey, turn: TurnId) -> TurnMeter:
        """Stop the turn's model calls. Returns an empty meter if the gateway cannot be reached.

        In that case the key is wiped when it expires, or was lost with the gateway's process.
        """
        opened = self._turns.pop(c, None)
        try:
            with self._noticing(c, opened.fence if opened else None):
                return await self._gateway.close_turn(c, turn)
        except LeaseLost:
            return TurnMeter()
        except GatewayUnavailable as error:
            log.warning("turn not closed at the gateway: %s", error, extra=fields(turn=turn))
            return TurnMeter()

    async def seal_key(self, request: SealKey) -> SealedKey:
        """The key of an open turn, sealed for the turn of an agent that it calls.

        Raises `GatewayUnavailable` after a few seconds, also for a turn that is not open, and
        `LeaseLost` if a newer owner has the session.
        """
        with self._noticing(request.conversation, request.fence):
            # One that has just restarted is told of the turn soon.
            return await self._patiently(lambda: self._gateway.seal_key(request))

    async def renew_login(self, command: RenewLogin) -> RenewedLogin:
        """A login at an MCP server, renewed at its service. Raises `GatewayUnavailable`."""
        return await self._gateway.renew_login(command)

    async def meter(self, turn: TurnId) -> TurnMeter | None:
        """What an open turn has used, at most a second old; None if it is not open there.

        Raises `GatewayUnavailable`.
        """
        async with self._metering:
            now_s = self._clock.monotonic()
            if self._meters is None or now_s - self._metered_s >= _METERS_AGE_S:
                self._meters = await self._gateway.meters()
                self._metered_s = now_s
            return self._meters.turns.get(turn)

    async def close_session(self, c: ConversationKey, fence: Fence) -> None:
        """Close the session's sockets, if the gateway is reachable.

        Raises `LeaseLost` if an owner newer than `fence` has them.
        """
        self.forget(c)
        try:
            with self._noticing(c, fence):
                await self._gateway.close_session(c, fence)
        except GatewayUnavailable as error:
            log.warning("session not closed at the gateway: %s", error, extra=fields(c=c))

    def complete(self, call: SideCall) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """One model call without an agent. It is not remembered here and ends with the gateway."""
        return self._gateway.complete(call)

    def forget(self, c: ConversationKey) -> None:
        """Another worker has the session now: leave it as it is at the gateway."""
        self._sessions.pop(c, None)
        self._turns.pop(c, None)

    async def run(self) -> None:
        """Detect restarts of the gateway, until cancelled.

        Checks every half second, because the gateway cannot call a worker, and the agents' own
        retries last little longer.
        """
        while True:
            await self._clock.sleep(self._check_every_s)
            try:
                await self.check()
            except GatewayUnavailable as error:
                log.warning("gateway does not answer: %s", error)

    async def check(self) -> None:
        """Ask for the gateway's instance; if it is a new one, open everything again."""
        status = await self._gateway.status()
        self.upstream = status.upstream
        if status.instance == self._instance:
            return
        if self._instance is not None:
            log.info("gateway restarted", extra=fields(sessions=len(self._sessions)))
            for c in list(self._sessions):
                await self._reopen_one(c)
        self._instance = status.instance

    async def upstream_away(self) -> UpstreamHealth | None:
        """What is wrong with the model's service; None if it answers, or nobody can say.

        Costs nothing while it answers. Otherwise it is asked for a few seconds, because one lost
        call is not yet an outage.
        """
        if (known := self.upstream) is None or (known.is_known and known.cause is None):
            return None
        give_up_s = self._clock.monotonic() + UPSTREAM_PATIENCE_S
        while (found := await self._gateway.ask_upstream()) is not None and found.cause:
            if self._is_old(found) or self._clock.monotonic() >= give_up_s:
                return found
            await self._clock.sleep(UPSTREAM_PAUSE_S)
        self.upstream = found
        return None

    def _is_old(self, found: UpstreamHealth) -> bool:
        """Whether it was away for longer than that before it was asked now."""
        away_ms = self._clock.unix_ms() - (found.since_ms or 0)
        return away_ms >= UPSTREAM_PATIENCE_S * 1000

    async def _reopen_one(self, c: ConversationKey) -> None:
        """Reopen one session. If it is refused (a newer owner's, an expired key), the others are
        not affected."""
        session = self._sessions.get(c)
        try:
            with self._noticing(c, session.fence if session else None):
                await self._reopen(c)
        except (CommandRefused, LeaseLost) as refused:
            log.warning("session not registered again: %s", refused, extra=fields(conversation=c))

    async def _reopen(self, c: ConversationKey) -> None:
        if session := self._sessions.get(c):
            await self._gateway.open_session(c, session)
        # Looked up after the await, because the turn may have ended meanwhile.
        if turn := self._turns.get(c):
            await self._gateway.open_turn(turn)

    @contextmanager
    def _noticing(self, c: ConversationKey, fence: Fence | None) -> Iterator[None]:
        """Translates the gateway's report of a newer owner to `LeaseLost`."""
        try:
            yield
        except CommandRefused as refused:
            if refused.fault is not GatewayFault.STALE_FENCE or fence is None:
                raise
            self._on_superseded(c, fence)
            raise LeaseLost(c, fence) from refused

    async def _patiently(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        give_up_at = self._clock.monotonic() + self._patience_s
        pause_s = 0.1
        while True:
            try:
                return await call()
            except GatewayUnavailable as error:
                is_stale = (
                    isinstance(error, CommandRefused) and error.fault is GatewayFault.STALE_FENCE
                )
                if is_stale or self._clock.monotonic() + pause_s > give_up_at:
                    raise
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)
