"""The turn log: the numbered events of a turn as a Redis stream. It is the authoritative record of
an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from infra.wire.errors import LeaseLost, TenantHoldsTooMuch, TurnLogTorn
from infra.wire.events import is_end
from infra.wire.ids import Fence, TurnId, WorkerId
from infra.wire.states import TurnState


@dataclass(frozen=True)
class LogPage:
    """Events after a cursor. `state` is None if Redis does not know the turn (or no longer)."""

    events: Sequence[tuple[int, bytes]]
    state: TurnState | None


class AppendAnswer(Answer, frozen=True):
    outcome: Literal["ok", "lost", "torn", "full"]
    newest: int = 0


class NumberedEvent(NamedTuple):
    n: int
    payload: bytes


class AppendCall(Call[AppendAnswer], frozen=True):
    worker: WorkerId
    fence: Fence
    turn: TurnId
    events_max: int
    bytes_max: int
    events: Sequence[NumberedEvent]


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
        """Append the events, skipping numbers that are already there. Returns the newest number in
        the log.

        The first event makes a claimed turn running. A turn that has ended accepts nothing more;
        that is not an error. Raises `LeaseLost` if the fence is stale, `TurnLogTorn` if events just
        before these are missing, and `TenantHoldsTooMuch` if its tenant has used up its bytes. In
        these cases nothing is written.
        """
        answer = await self._scripts.run(
            AppendCall(
                worker=lease.worker,
                fence=lease.fence,
                turn=turn,
                events_max=self.events_max,
                bytes_max=self._tenant_bytes_max,
                events=[NumberedEvent(n, self._sealed(turn, n, payload)) for n, payload in events],
            ),
            conversation=self._keys.conversation(lease.conversation),
            turn=self._keys.turn(turn),
            turn_events=self._keys.turn_events(turn),
        )
        match answer.outcome:
            case "lost":
                raise LeaseLost(lease.conversation, lease.fence)
            case "torn":
                raise TurnLogTorn(turn, answer.newest)
            case "full":
                raise TenantHoldsTooMuch(turn, answer.newest)
        return answer.newest

    async def read(self, turn: TurnId, *, after: int, limit: int = 1000) -> LogPage:
        """Events numbered above `after`, oldest first, and the turn's state, in one round trip.

        Raises `StoreUnavailable`, and `ContentNotOpened` for events sealed with another content
        secret.

        The state is read before the events: if it is terminal, the log contains the end event.
        """
        with translate():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hget(self._keys.turn(turn), "state")
                pipe.xrange(self._keys.turn_events(turn), min=f"{after + 1}-0", count=limit)
                state, entries = await pipe.execute()
        return LogPage(
            [self._event(turn, id, entry) for id, entry in entries],
            None if state is None else TurnState(text(state)),
        )

    async def oldest(self, turn: TurnId) -> int | None:
        """The number of the first event that is kept; None for an empty log."""
        with translate():
            entries = await self._redis.xrange(self._keys.turn_events(turn), count=1)
        return _number(entries[0][0]) if entries else None

    async def newest(self, turn: TurnId) -> bytes | None:
        """The last event; None for an empty log."""
        with translate():
            entries = await self._redis.xrevrange(self._keys.turn_events(turn), count=1)
        return self._event(turn, *entries[0])[1] if entries else None

    def _sealed(self, turn: TurnId, n: int, payload: bytes) -> bytes:
        return self._contents.seal_event(payload, event_place(turn, n, payload))

    def _event(self, turn: TurnId, id: bytes, entry: dict[bytes, bytes]) -> tuple[int, bytes]:
        n, kept = _number(id), entry[b"e"]
        return n, self._contents.open_event(kept, event_place(turn, n, kept))


def event_place(turn: TurnId, n: int, payload: bytes) -> str:
    """The place name of an event's contents: the same live and in the log.

    A turn has one end, and the script that logs it may have to give it a later number.
    """
    return f"end {turn}" if is_end(payload) else f"event {turn} {n}"


def _number(id: bytes) -> int:
    return int(id.partition(b"-")[0])
