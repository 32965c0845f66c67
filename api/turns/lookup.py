"""Finds earlier turns by their id, reads them again from any replica, and cancels them.

A reader has no influence on the turn: leaving it ends nothing. Another tenant's turn is not found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack

from api.access.answer_quota import AnswerQuota
from api.http.auth import Caller
from api.turns.following.open_answer import OpenAnswer
from api.turns.following.relay_opener import RelayOpener
from infra.store.turns.log import TurnLog
from infra.store.turns.turns import TurnRecord, TurnStore
from infra.wire.errors import TurnNotFound
from infra.wire.events import TurnEnded, decode_event, is_end
from infra.wire.ids import TurnId
from infra.wire.states import TurnState

LOOK_BACK_EVENTS = 2000
"""How many events before the cursor are read, because they decide the line breaks after it."""
PAGE_ENTRIES = 100
"""Read at once: an entry of a log may hold a second's events."""


class TurnLookup:
    """The recorded turns, as callers may see them."""

    def __init__(
        self, *, turns: TurnStore, turn_log: TurnLog, relays: RelayOpener, answers: AnswerQuota
    ) -> None:
        self._turns = turns
        self._log = turn_log
        self._relays = relays
        self._answers = answers

    async def find(self, turn: TurnId, caller: Caller) -> TurnRecord:
        """Raises `TurnNotFound` and `StoreUnavailable`."""
        record = await self._turns.get(turn)
        if record is None or not caller.owns(record.tenant):
            raise TurnNotFound(turn)
        return record

    async def follow(self, record: TurnRecord, *, after: int = 0) -> OpenAnswer:
        """Open a turn for a client.

        Raises `RequestRefused` if its events are no longer kept or the client's tenant has too many
        open answers, and `StoreUnavailable`.
        """
        await self._relays.require_kept(record, after=after)
        with ExitStack() as held:
            held.enter_context(self._answers.counted(record.tenant))
            return self._open(record, after, held)

    def open(self, record: TurnRecord, *, after: int = 0) -> OpenAnswer:
        """Its events after number `after`, then those that are still to come.

        The end of a finished turn is always included, so that a stream always closes properly.
        """
        with ExitStack() as held:
            return self._open(record, after, held)

    def _open(self, record: TurnRecord, after: int, held: ExitStack) -> OpenAnswer:
        if record.state.is_terminal:
            after = min(after, record.seq - 1)
        mailbox = held.enter_context(self._relays.attached(record.turn))
        is_far = record.replica != self._relays.replica
        relay = self._relays.relay(record.turn, mailbox, held, after=max(after, 0), is_far=is_far)
        return OpenAnswer(relay, held.pop_all())

    async def seen(self, record: TurnRecord, *, upto: int) -> list[bytes]:
        """The newest events up to number `upto`. Raises `StoreUnavailable`."""
        seen: list[bytes] = []
        after = max(upto - LOOK_BACK_EVENTS, 0)
        while after < upto:
            page = await self._log.read(record.turn, after=after, limit=PAGE_ENTRIES)
            if not page.events:
                break
            seen += [payload for n, payload in page.events if n <= upto]
            after = page.events[-1][0]
        return seen

    async def logged(self, record: TurnRecord) -> AsyncIterator[tuple[int, list[bytes]]]:
        """Everything that is logged of it so far, in pieces: the number of the first event of the
        piece, and the events. Raises `StoreUnavailable`.

        The beginning of a very long log is dropped.
        """
        after = 0
        while (page := await self._log.read(record.turn, after=after, limit=PAGE_ENTRIES)).events:
            yield page.events[0][0], [payload for _, payload in page.events]
            after = page.events[-1][0]

    async def end(self, record: TurnRecord) -> TurnEnded | None:
        """How it ended; None if it has not, or that is no longer kept. Raises
        `StoreUnavailable`."""
        newest = await self._log.newest(record.turn)
        if newest is None or not is_end(newest):
            return None
        end = decode_event(newest)
        assert isinstance(end, TurnEnded), "only an end event ends a turn"
        return end

    async def repeated(self, caller: Caller, digest: str) -> TurnId | None:
        """The turn of an earlier request with this digest (`Repeat.digest`), if it is still on
        record. Raises `StoreUnavailable`."""
        return await self._turns.repeated(caller.tenant, digest)

    async def cancel(self, turn: TurnId, caller: Caller) -> TurnState:
        """Cancel the turn and return its current state. Raises `TurnNotFound` and
        `StoreUnavailable`."""
        record = await self.find(turn, caller)
        return await self._turns.cancel(
            record.turn, tenant=caller.tenant, reason="cancelled by its caller"
        )
