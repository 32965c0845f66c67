"""The turn log: the numbered events of a turn as a Redis stream, in runs.

It is the authoritative record of an answer. `infra.store.turns.runs` says what a run is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from redis.asyncio import Redis

from infra.runtime.contents import Contents, PlainContents
from infra.store.bounds import EVENTS_MAX
from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.connection import translate
from infra.store.server.replies import Answer, text
from infra.store.server.scripts import Scripts
from infra.store.turns.runs import events_in, runs_of
from infra.wire.errors import LeaseLost, TenantHoldsTooMuch, TurnLogTorn
from infra.wire.events import is_end
from infra.wire.ids import ConversationKey, Fence, TurnId, WorkerId
from infra.wire.states import TurnState


@dataclass(frozen=True)
class LogPage:
    """Events after a cursor. `state` is None if Redis does not know the turn (or no longer)."""

    events: Sequence[tuple[int, bytes]]
    state: TurnState | None
    entries: int = 0
    """How many entries of the log these are; an entry holds a run of events."""


@dataclass(frozen=True)
class TurnAppend:
    """What is to be logged of one turn: events with their numbers, in order."""

    lease: Lease
    turn: TurnId
    events: Sequence[tuple[int, bytes]]


Appended = int | LeaseLost | TurnLogTorn | TenantHoldsTooMuch
"""The newest number in a turn's log, or why its events were not logged."""


class AppendAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    outcomes: Sequence[Literal["ok", "lost", "torn", "full"]] = ()
    newest: Sequence[int] = ()


class LoggedRun(NamedTuple):
    conversation: ConversationKey
    worker: WorkerId
    fence: Fence
    turn: TurnId
    first: int
    last: int
    events: bytes


class AppendCall(Call[AppendAnswer], frozen=True):
    events_max: int
    bytes_max: int
    runs: Sequence[LoggedRun]


class TurnLog:
    """The ordered events of turns.

    Promises: a number is stored once, even if it is appended again; numbers have no gaps,
    or the append fails (`TurnLogTorn`); only the current owner appends; a log has one end event,
    after which nothing is added. A log expires with its turn (`AGCLUSTER_TURN_TTL_S` after the
    end). Appending again after an error or a cancellation is safe.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        events_max: int = EVENTS_MAX,
        tenant_bytes_max: int = 0,
        contents: Contents | None = None,
    ) -> None:
        """`tenant_bytes_max` (0: no limit) limits what the turn's tenant has in Redis, including
        this log."""
        self._redis = redis
        self._tenant_bytes_max = tenant_bytes_max
        self._contents = contents or PlainContents()
        self.events_max = events_max
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def append(self, lease: Lease, turn: TurnId, events: Sequence[tuple[int, bytes]]) -> int:
        """`append_all` for one turn. Raises what became of it: `LeaseLost`, `TurnLogTorn`,
        `TenantHoldsTooMuch`; and `StoreUnavailable`."""
        [appended] = await self.append_all([TurnAppend(lease, turn, events)])
        if isinstance(appended, int):
            return appended
        raise appended

    async def append_all(self, appends: Sequence[TurnAppend]) -> Sequence[Appended]:
        """Append events of many turns in one step, skipping numbers that are already there.
        Returns for each turn the newest number in its log, or why nothing more was logged.

        The first event makes a claimed turn running. A turn that has ended accepts nothing more;
        that is not an error. A turn's answer is `LeaseLost` if its fence is stale, `TurnLogTorn` if
        events just before these are missing, and `TenantHoldsTooMuch` if its tenant has used up its
        bytes: then of longer events (above 64 KiB) a first part may be logged. It touches no other
        turn. Raises `StoreUnavailable`; then any of them may be logged.
        """
        runs = [self._runs_of(append) for append in appends]
        answer = await self._scripts.run(
            AppendCall(
                events_max=self.events_max,
                bytes_max=self._tenant_bytes_max,
                runs=[run for of_turn in runs for run in of_turn],
            )
        )
        told = zip(answer.outcomes, answer.newest, strict=True)
        return [
            _appended(append, [*islice(told, len(of_turn))])
            for append, of_turn in zip(appends, runs, strict=True)
        ]

    def _runs_of(self, append: TurnAppend) -> list[LoggedRun]:
        lease, turn = append.lease, append.turn
        sealed = [(n, self._sealed(turn, n, payload)) for n, payload in append.events]
        return [
            LoggedRun(lease.conversation, lease.worker, lease.fence, turn, *run)
            for run in runs_of(sealed)
        ]

    async def read(self, turn: TurnId, *, after: int, limit: int = 1000) -> LogPage:
        """Events numbered above `after`, oldest first, and the turn's state, in one round trip.

        Reads at most `limit` entries. Raises `StoreUnavailable`, and `ContentNotOpened` for events
        sealed with another content secret.

        The state is read before the events: if it is terminal, the log contains the end event.
        """
        with translate():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hget(self._keys.turn(turn), "state")
                pipe.xrange(self._keys.turn_events(turn), min=f"{after + 1}-0", count=limit)
                state, entries = await pipe.execute()
        events = [
            (n, self._opened(turn, n, kept))
            for id, entry in entries
            for n, kept in events_in(id, entry)
            if n > after
        ]
        return LogPage(events, None if state is None else TurnState(text(state)), len(entries))

    async def oldest(self, turn: TurnId) -> int | None:
        """The number of the first event that is kept; None for an empty log."""
        with translate():
            entries = await self._redis.xrange(self._keys.turn_events(turn), count=1)
        return events_in(*entries[0])[0][0] if entries else None

    async def newest(self, turn: TurnId) -> bytes | None:
        """The last event; None for an empty log."""
        with translate():
            entries = await self._redis.xrevrange(self._keys.turn_events(turn), count=1)
        if not entries:
            return None
        n, kept = events_in(*entries[0])[-1]
        return self._opened(turn, n, kept)

    def _sealed(self, turn: TurnId, n: int, payload: bytes) -> bytes:
        return self._contents.seal_event(payload, event_place(turn, n, payload))

    def _opened(self, turn: TurnId, n: int, kept: bytes) -> bytes:
        return self._contents.open_event(kept, event_place(turn, n, kept))


def _appended(append: TurnAppend, told: Sequence[tuple[str, int]]) -> Appended:
    """What became of a turn's runs: the first that was not logged decides."""
    outcome, newest = next((run for run in told if run[0] != "ok"), told[-1] if told else ("ok", 0))
    match outcome:
        case "lost":
            return LeaseLost(append.lease.conversation, append.lease.fence)
        case "torn":
            return TurnLogTorn(append.turn, newest)
        case "full":
            return TenantHoldsTooMuch(append.turn, newest)
    return newest


def event_place(turn: TurnId, n: int, payload: bytes) -> str:
    """The place name of an event's contents: the same live and in the log.

    A turn has one end, and the script that logs it may have to give it a later number.
    """
    return f"end {turn}" if is_end(payload) else f"event {turn} {n}"
