"""Sessions and their open turns: who may use which key, and for how long.

    turn:  open -> closed | expired,  expired -> closed

A session listens on two sockets while it is open. Everything that an agent does through them
belongs to the open turn and is cut off when the turn ends. A fence below the highest one seen is
refused.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.runtime.sealing import SealContext, Sealer
from infra.wire.errors import AgClusterError, IllegalTransition, KeyNotOpened
from infra.wire.gateway import (
    GatewayStatus,
    OpenSession,
    OpenTurn,
    SealedKey,
    SealKey,
    TurnMeter,
)
from infra.wire.ids import ConversationKey, Fence, TurnId
from worker.gateway.keys import (
    CallersSecrets,
    LoginTokens,
    TurnKey,
    open_callers_secrets,
    open_key,
)
from worker.gateway.mcp_logins import McpLoginDesk
from worker.gateway.model.metering import Ledger, TurnCounter
from worker.gateway.model.spoken_text import SpokenText
from worker.gateway.tries import FailedTries

log = logging.getLogger(__name__)


class StaleFence(AgClusterError):
    """A newer owner exists; `fence` is the newer owner's."""

    def __init__(self, conversation: ConversationKey, *, given: Fence, fence: Fence) -> None:
        super().__init__(f"fence {given} of {conversation} is stale: {fence} stands")
        self.fence = fence


class NoSession(AgClusterError):
    """No session with that name is open here."""


class TurnOver(AgClusterError):
    """No turn is open, or it ended while one of its calls was running."""


class BudgetSpent(AgClusterError):
    """The turn has used up its tokens."""


class KeyState(StrEnum):
    """Whether a turn's calls are passed on."""

    OPEN = "open"
    CLOSED = "closed"
    EXPIRED = "expired"


_TRANSITIONS: Mapping[KeyState, frozenset[KeyState]] = {
    KeyState.OPEN: frozenset({KeyState.CLOSED, KeyState.EXPIRED}),
    KeyState.EXPIRED: frozenset({KeyState.CLOSED}),
    KeyState.CLOSED: frozenset(),
}


class Traffic:
    """The number of running model calls in the whole gateway."""

    def __init__(self) -> None:
        self._calls = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextmanager
    def call(self) -> Iterator[None]:
        self._calls += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._is_idle.set()

    async def wait_idle(self) -> None:
        await self._is_idle.wait()


class Turn:
    """A turn whose model calls are passed on with its key, until it ends."""

    def __init__(
        self,
        command: OpenTurn,
        key: TurnKey,
        counter: TurnCounter,
        callers_secrets: CallersSecrets | None = None,
        tokens: LoginTokens | None = None,
    ) -> None:
        self.id = command.turn
        self.tenant = command.tenant
        self.models = frozenset(command.models)
        self.options = command.options
        self.mcp_servers = command.mcp_servers
        self.expires_ms = command.expires_ms
        self.budget_tokens = command.budget_tokens
        self.key = key
        self.callers_secrets = callers_secrets or CallersSecrets()
        """What its caller sends for its MCP servers."""
        self.tokens = tokens or LoginTokens()
        self.counter = counter
        self.spoken_text = SpokenText(command.turn_options.max_tokens)
        self.egress_bytes = 0
        self.failed_tries = FailedTries()
        self.state = KeyState.OPEN
        self._under_way: set[asyncio.Timeout] = set()

    @property
    def is_spent(self) -> bool:
        """Whether its budget is used up by what has been metered so far."""
        budget = self.budget_tokens
        return budget is not None and self.counter.spent_tokens >= budget

    def require_budget(self) -> None:
        """Raises `BudgetSpent`, and records it in the meter."""
        if self.is_spent:
            self.counter.is_over_budget = True
            raise BudgetSpent(f"the budget of {self.budget_tokens} tokens is spent")

    @asynccontextmanager
    async def while_open(self) -> AsyncIterator[None]:
        """Run the block while the turn is open. Raises `TurnOver` if the turn ends first."""
        if self.state is not KeyState.OPEN:
            raise TurnOver(f"the turn is {self.state}")
        # A timeout without a deadline, which `end` sets to now. Unlike a plain cancel, it cannot be
        # mistaken for a cancellation from outside.
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._under_way.add(scope)
                yield
        except TimeoutError:
            if scope.expired():
                raise TurnOver(f"the turn is {self.state}") from None
            raise
        finally:
            self._under_way.discard(scope)

    def end(self, state: KeyState) -> None:
        """Wipe the key and cut off running calls. Ending a closed turn is harmless."""
        if self.state is KeyState.CLOSED or self.state is state:
            return
        if state not in _TRANSITIONS[self.state]:
            raise IllegalTransition(f"turn {self.id}", self.state, state)
        self.state = state
        self.key.wipe()
        self.callers_secrets.wipe()
        self.tokens.wipe()
        now = asyncio.get_running_loop().time()
        for scope in self._under_way:
            scope.reschedule(now)
        self._under_way.clear()


class Listeners(Protocol):
    """A session's two sockets."""

    @property
    def are_in_place(self) -> bool:
        """Whether both files still exist."""
        ...

    def stop(self) -> None:
        """Stop listening and remove the files, at once."""
        ...

    async def aclose(self) -> None:
        """Close the remaining connections, after `stop`; takes bounded time."""
        ...


class GatewaySession:
    """One conversation's sockets, its fence, and its open turn if there is one."""

    def __init__(self, conversation: ConversationKey, command: OpenSession) -> None:
        self.conversation = conversation
        self.fence = command.fence
        self.folder = Path(command.socket_dir)
        self.turn: Turn | None = None
        self.listeners: Listeners | None = None
        self._has_had_turn = asyncio.Event()

    def begin_turn(self, turn: Turn) -> None:
        """Open a turn. The previous one must have ended."""
        assert self.turn is None
        self.turn = turn
        self._has_had_turn.set()

    async def wait_first_turn(self, timeout_s: float) -> None:
        """In a session without a turn so far, wait for its first one."""
        if self._has_had_turn.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_had_turn.wait()

    def running_turn(self) -> Turn:
        """The open turn. Raises `TurnOver` if there is none."""
        if self.turn is None:
            raise TurnOver("no turn is running")
        if self.turn.state is not KeyState.OPEN:
            raise TurnOver(f"the turn is {self.turn.state}")
        return self.turn

    def raise_fence(self, fence: Fence | None) -> None:
        """Raises `StaleFence`. None is accepted, because it claims nothing."""
        if fence is None:
            return
        if fence < self.fence:
            raise StaleFence(self.conversation, given=fence, fence=self.fence)
        self.fence = fence

    def end_turn(self) -> None:
        """Close the open turn."""
        if self.turn is not None:
            self.turn.end(KeyState.CLOSED)
            self.turn = None


class SessionTable:
    """All sessions of this host's gateway."""

    def __init__(
        self,
        *,
        listen: Callable[[GatewaySession], Awaitable[Listeners]],
        sealer: Sealer,
        mcp_sealer: Sealer,
        logins: McpLoginDesk,
        clock: Clock,
        group: asyncio.TaskGroup,
    ) -> None:
        """`mcp_sealer` opens what callers send for MCP servers."""
        self._listen = listen
        self._sealer = sealer
        self._mcp_sealer = mcp_sealer
        self.logins = logins
        self._clock = clock
        self._group = group
        self._sessions: dict[ConversationKey, GatewaySession] = {}
        self._expiries: dict[Turn, asyncio.Task[None]] = {}
        self._changing = asyncio.Lock()
        self.instance = secrets.token_hex(8)
        self.ledger = Ledger(self.instance)

    def status(self) -> GatewayStatus:
        open_turns = sum(1 for session in self._sessions.values() if session.turn is not None)
        return GatewayStatus(instance=self.instance, sessions=len(self._sessions), turns=open_turns)

    async def open_session(self, conversation: ConversationKey, command: OpenSession) -> None:
        """Listen in the session's folder. Raises `StaleFence` or `SocketRefused`.

        Existing sockets stay, and so does everything that uses them.
        """
        async with self._changing:
            known = self._sessions.get(conversation)
            if known is not None:
                known.raise_fence(command.fence)
                if self._is_listening(known, command):
                    return
                self._stop_listening(known)
            session = known or GatewaySession(conversation, command)
            session.folder = Path(command.socket_dir)
            session.listeners = await self._listen(session)
            self._sessions[conversation] = session
        log.info("session open", extra=fields(conversation=conversation, fence=command.fence))

    async def close_session(self, conversation: ConversationKey, fence: Fence | None) -> None:
        """End its turn and remove its sockets. Raises `StaleFence`."""
        async with self._changing:
            session = self._sessions.get(conversation)
            if session is None:
                return
            session.raise_fence(fence)
            del self._sessions[conversation]
            self._end_turn(session)
            self._stop_listening(session)
        log.info("session closed", extra=fields(conversation=conversation, fence=fence))

    def open_turn(self, command: OpenTurn) -> None:
        """Allow model calls with the sealed key.

        Raises `NoSession`, `StaleFence` or `KeyNotOpened`. For the turn that is already open, only
        fence, budget and the tokens of logins change: a worker that takes it over sends the same
        command again, and so does one that has renewed a login.
        """
        session = self._sessions.get(command.conversation)
        if session is None:
            raise NoSession(f"session {command.conversation} is not open here")
        if command.fence < session.fence:
            raise StaleFence(session.conversation, given=command.fence, fence=session.fence)
        now_ms = self._clock.unix_ms()
        key = open_key(self._sealer, command, now_ms=now_ms)
        callers_secrets = open_callers_secrets(self._mcp_sealer, command, now_ms=now_ms)
        session.raise_fence(command.fence)
        if session.turn is not None:
            if session.turn.id == command.turn and session.turn.state is KeyState.OPEN:
                key.wipe()
                callers_secrets.wipe()
                session.turn.budget_tokens = command.budget_tokens
                session.turn.tokens.take(self._tokens(command))
                return
            self._end_turn(session)
        turn = Turn(
            command, key, self.ledger.open(command.turn), callers_secrets, self._tokens(command)
        )
        session.begin_turn(turn)
        self._expiries[turn] = self._group.create_task(self._expire_later(turn))
        log.info("turn open", extra=_told(session, turn))

    def _tokens(self, command: OpenTurn) -> LoginTokens:
        """Of its logins, those that open."""
        opened = {}
        for server, login in command.mcp_logins.items():
            try:
                opened[server] = self.logins.open(login)
            except KeyNotOpened as error:
                log.warning("login not opened", extra=fields(login=login.name, reason=error))
        return LoginTokens(opened)

    def close_turn(
        self, conversation: ConversationKey, turn: TurnId, fence: Fence | None
    ) -> TurnMeter:
        """Cut off its calls, wipe its key and return what it used, also for a turn that ended
        before or whose session is closed. Can be repeated. Raises `StaleFence`."""
        session = self._sessions.get(conversation)
        if session is not None:
            session.raise_fence(fence)
            if session.turn is not None and session.turn.id == turn:
                self._end_turn(session)
        # A side call's worker has disconnected, which may not have been noticed here yet.
        self.ledger.settle(turn)
        return self.ledger.read(turn)

    def seal_key(self, command: SealKey) -> SealedKey:
        """The key of an open turn, sealed for the turn of an agent that it calls.

        Raises `NoSession` if the turn is not open here, and `StaleFence`.
        """
        session = self._sessions.get(command.conversation)
        turn = session.turn if session is not None else None
        if session is None or turn is None or turn.id != command.turn:
            raise NoSession(f"turn {command.turn} is not open here")
        if command.fence < session.fence:
            raise StaleFence(session.conversation, given=command.fence, fence=session.fence)
        if turn.state is not KeyState.OPEN:
            raise NoSession(f"turn {command.turn} is {turn.state}")
        context = SealContext(
            turn.tenant, command.for_conversation, command.for_turn, turn.expires_ms
        )
        sealed = self._sealer.seal(turn.key.reveal(), context)
        return SealedKey(sealed_key=sealed, expires_ms=turn.expires_ms)

    async def aclose(self) -> None:
        """Close every session."""
        for conversation in list(self._sessions):
            await self.close_session(conversation, None)

    def _is_listening(self, session: GatewaySession, command: OpenSession) -> bool:
        return (
            session.listeners is not None
            and session.folder == Path(command.socket_dir)
            and session.listeners.are_in_place
        )

    def _stop_listening(self, session: GatewaySession) -> None:
        """The files are removed now; the connections close in their own time."""
        if session.listeners is not None:
            session.listeners.stop()
            self._group.create_task(session.listeners.aclose())
            session.listeners = None

    def _end_turn(self, session: GatewaySession) -> None:
        turn = session.turn
        if turn is None:
            return
        session.end_turn()
        if expiry := self._expiries.pop(turn, None):
            expiry.cancel()
        self.ledger.close(turn.id)
        used = turn.counter.read()
        told = _told(session, turn, calls=used.calls, tokens=used.usage.spent_tokens)
        log.info("turn closed", extra=told)

    async def _expire_later(self, turn: Turn) -> None:
        await self._clock.sleep(max(0.0, (turn.expires_ms - self._clock.unix_ms()) / 1000))
        turn.end(KeyState.EXPIRED)
        self._expiries.pop(turn, None)
        log.warning("turn expired, key wiped", extra=fields(turn=turn.id))


def _told(session: GatewaySession, turn: Turn, **more: object) -> dict[str, object]:
    return fields(conversation=session.conversation, turn=turn.id, fence=session.fence, **more)
