"""The worker's view of its host's gateway: the seam, and what has to be open at it.

`Gateway` is the control socket as calls (`worker.gateway_client.client`,
`tests.fakes.memory_gateway`). `GatewayRegistrar` remembers what this worker opened and opens it
again when the gateway restarts: a new gateway knows no session, and the agents' model calls would
fail until it does.
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
    SideCall,
    TurnMeter,
)
from infra.wire.ids import ConversationKey, Fence, TurnId
from worker.gateway_client.client import CommandRefused, UpstreamAnswer

log = logging.getLogger(__name__)

_METERS_AGE_S = 1.0
"""All turns of a worker share one look at the gateway's meters."""

_Answer = TypeVar("_Answer")


class Gateway(Protocol):
    """The gateway's control socket. Every call has a deadline and may be repeated.

    All raise `GatewayUnavailable`.
    """

    async def open_session(self, conversation: ConversationKey, request: OpenSession) -> object:
        """Make the session's sockets."""
        ...

    async def close_session(self, conversation: ConversationKey, fence: Fence) -> object:
        """Close its sockets, forget its keys. One that is not open is no error.

        Refused when a newer owner than `fence` has opened it.
        """
        ...

    async def open_turn(self, request: OpenTurn) -> object:
        """Let the turn's model calls through."""
        ...

    async def close_turn(self, conversation: ConversationKey, turn: TurnId) -> TurnMeter:
        """Stop model calls, wipe the key; what the turn used."""
        ...

    async def meters(self) -> Meters:
        """What the host's turns under way have used so far."""
        ...

    def complete(self, call: SideCall) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """One model call without an agent; leaving the block ends it."""
        ...

    async def status(self) -> GatewayStatus:
        """Who answers; `instance` is new after a restart."""
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
        """`on_superseded` hears of a session of ours that a newer owner has opened."""
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

    async def open_session(self, c: ConversationKey, *, sockets: Path, fence: Fence) -> None:
        """Have the session's sockets made.

        Raises `GatewayUnavailable` after a few seconds, and `LeaseLost` for a newer owner's.
        """
        request = OpenSession(socket_dir=str(sockets), fence=fence)
        self._sessions[c] = request
        with self._noticing(c, fence):
            await self._patiently(lambda: self._gateway.open_session(c, request))

    async def open_turn(self, request: OpenTurn) -> None:
        """Let a turn's model calls through.

        Raises `GatewayUnavailable` after a few seconds, `CommandRefused` at once, and `LeaseLost`
        when a newer owner has the session.
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
                # It may be restarting, and will not know the session then.
                await self._patiently(lambda: self._reopen(c))

    async def close_turn(self, c: ConversationKey, turn: TurnId) -> TurnMeter:
        """Stop the turn's model calls; an empty meter when the gateway cannot be asked.

        The key is then wiped by its own expiry, or went with the gateway's process.
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

    async def meter(self, turn: TurnId) -> TurnMeter | None:
        """What an open turn has used, as of a second ago at most; None when it is not open there.

        Raises `GatewayUnavailable`.
        """
        async with self._metering:
            now_s = self._clock.monotonic()
            if self._meters is None or now_s - self._metered_s >= _METERS_AGE_S:
                self._meters = await self._gateway.meters()
                self._metered_s = now_s
            return self._meters.turns.get(turn)

    async def close_session(self, c: ConversationKey, fence: Fence) -> None:
        """Close the session's sockets, if the gateway is there to do it.

        Raises `LeaseLost` when a newer owner than `fence` has them.
        """
        self.forget(c)
        try:
            with self._noticing(c, fence):
                await self._gateway.close_session(c, fence)
        except GatewayUnavailable as error:
            log.warning("session not closed at the gateway: %s", error, extra=fields(c=c))

    def complete(self, call: SideCall) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """One model call without an agent. Nothing of it is kept: it ends with the gateway."""
        return self._gateway.complete(call)

    def forget(self, c: ConversationKey) -> None:
        """The session is another worker's now: leave it as it is at the gateway."""
        self._sessions.pop(c, None)
        self._turns.pop(c, None)

    async def run(self) -> None:
        """Notice restarts until cancelled.

        A look every half second: the gateway has no way to call a worker, and the agents' own
        retries bridge not much more.
        """
        while True:
            await self._clock.sleep(self._check_every_s)
            try:
                await self.check()
            except GatewayUnavailable as error:
                log.warning("gateway does not answer: %s", error)

    async def check(self) -> None:
        """Ask who answers; open everything again when it is another one."""
        status = await self._gateway.status()
        if status.instance == self._instance:
            return
        if self._instance is not None:
            log.info("gateway restarted", extra=fields(sessions=len(self._sessions)))
            for c in list(self._sessions):
                await self._reopen_one(c)
        self._instance = status.instance

    async def _reopen_one(self, c: ConversationKey) -> None:
        """One that is refused (a newer owner's, a key that has expired) leaves the others alone."""
        session = self._sessions.get(c)
        try:
            with self._noticing(c, session.fence if session else None):
                await self._reopen(c)
        except (CommandRefused, LeaseLost) as refused:
            log.warning("session not registered again: %s", refused, extra=fields(conversation=c))

    async def _reopen(self, c: ConversationKey) -> None:
        if session := self._sessions.get(c):
            await self._gateway.open_session(c, session)
        # Looked up after the await: the turn may have ended meanwhile.
        if turn := self._turns.get(c):
            await self._gateway.open_turn(turn)

    @contextmanager
    def _noticing(self, c: ConversationKey, fence: Fence | None) -> Iterator[None]:
        """The gateway's word that a newer owner is there, as the loss of the lease that it is."""
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
