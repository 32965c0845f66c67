"""Tasks, found in what is kept of turns: any replica finds them, and nothing else is stored.

A task begins with a turn. If that ends with a question, the conversation's next turn answers it and
belongs to the same task, and so on. So a task is known by its first turn and lasts until a turn
ends without a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from a2a.types import Task

from api.a2a.growing import GrowingTask
from api.a2a.names import task_id, turn_of
from api.a2a.updates import TaskDisplay, TaskNames, TurnUpdates, task_of
from api.conversations.sessions import Sessions
from api.files.links import FileLinks
from api.http.auth import Caller
from api.turns.lookup import TurnLookup
from infra.runtime.clock import Clock
from infra.store.conversations.conversations import ConversationRecord
from infra.store.turns.turns import TurnRecord
from infra.wire.errors import ConversationNotFound, TurnNotFound
from infra.wire.events import EndReason, TurnEnded
from infra.wire.ids import TurnId
from infra.wire.states import TurnState


@dataclass(frozen=True)
class KeptTask:
    """A task as it stands on record."""

    turns: Sequence[TurnRecord]
    """At least one, the newest last."""
    context: str
    is_waiting: bool
    """Whether its newest turn ended with something that the user has to say."""

    @property
    def id(self) -> str:
        return task_id(self.turns[0].turn)

    @property
    def newest(self) -> TurnRecord:
        return self.turns[-1]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.newest.state.is_terminal and not self.is_waiting


@dataclass(frozen=True)
class TaskSnapshot:
    """A task up to an event of its newest turn."""

    growing: GrowingTask
    updates: TurnUpdates
    """Those of the newest turn, to go on with."""
    upto: int
    """The number of the last event that is in it."""

    @property
    def task(self) -> Task:
        """The task with its artifacts."""
        return self.growing.told()


class Tasks:
    """The tasks of one replica's callers: each sees those of its own tenant."""

    def __init__(
        self, *, lookup: TurnLookup, sessions: Sessions, links: FileLinks, clock: Clock
    ) -> None:
        self._lookup = lookup
        self._sessions = sessions
        self._links = links
        self._clock = clock

    async def find(self, id: str, caller: Caller, *, agent: str) -> KeptTask:
        """Raises `TurnNotFound` (also for another tenant's, or another agent's) and
        `StoreUnavailable`."""
        first = await self._lookup.find(turn_of(id), caller)
        if not _is_of(first, agent):
            raise TurnNotFound(id)
        conversation = await self._conversation(first, caller)
        return await self._chain(first, conversation, caller)

    async def within(self, context: str, caller: Caller, *, agent: str) -> Sequence[KeptTask]:
        """The tasks of a context whose turns are still on record, the newest first. None for a
        context that there is not. Raises `StoreUnavailable`."""
        try:
            conversation = await self._sessions.find(context, caller)
        except ConversationNotFound:
            return []
        found = list[KeptTask]()
        taken = set[TurnId]()
        for turn in await self._sessions.turns(conversation):
            if turn in taken:
                continue
            try:
                first = await self._lookup.find(turn, caller)
            except TurnNotFound:
                continue
            task = await self._chain(first, conversation, caller)
            taken.update(record.turn for record in task.turns)
            if _is_of(first, agent):
                found.append(task)
        return found[::-1]

    async def snapshot(self, task: KeptTask, *, display: TaskDisplay) -> TaskSnapshot:
        """The task with everything that was logged of it. Raises `StoreUnavailable`."""
        names = self.names(task.id, task.context, display=display)
        newest = task.newest
        growing = GrowingTask(
            task_of(names, newest.state, at_ms=newest.ended_ms or newest.created_ms)
        )
        for record in task.turns:
            updates, upto = TurnUpdates(record.turn, names), 0
            at_ms = record.ended_ms or self._clock.unix_ms()
            async for first, payloads in self._lookup.logged(record):
                growing.add(updates.of(payloads, first=first, at_ms=at_ms))
                upto = first + len(payloads) - 1
        return TaskSnapshot(growing, updates, upto)

    def names(self, id: str, context: str, *, display: TaskDisplay) -> TaskNames:
        """What the updates of a task say of it."""
        return TaskNames(id, context, display, self._links)

    async def _conversation(self, record: TurnRecord, caller: Caller) -> ConversationRecord:
        """The turn's, if a client can name it. Raises `TurnNotFound`."""
        try:
            found = await self._sessions.find(record.conversation, caller)
            named = await self._sessions.find(found.label, caller) if found.label else None
        except ConversationNotFound:
            raise TurnNotFound(record.turn) from None
        if named is None or named.conversation != record.conversation:
            raise TurnNotFound(record.turn)
        return found

    async def _chain(
        self, first: TurnRecord, conversation: ConversationRecord, caller: Caller
    ) -> KeptTask:
        chain, is_waiting = [first], await self._asks(first)
        if is_waiting:
            turns = list(await self._sessions.turns(conversation))
            later = turns[turns.index(first.turn) + 1 :] if first.turn in turns else []
            for turn in later:
                try:
                    chain.append(await self._lookup.find(turn, caller))
                except TurnNotFound:
                    break
                if not (is_waiting := await self._asks(chain[-1])):
                    break
        return KeptTask(tuple(chain), conversation.label, is_waiting)

    async def _asks(self, record: TurnRecord) -> bool:
        if record.state is not TurnState.DONE:
            return False
        end = await self._lookup.end(record)
        return end is not None and waits_for_more(end)


def waits_for_more(end: TurnEnded) -> bool:
    """Whether the user has to say something before the work goes on."""
    return end.state is TurnState.DONE and (end.asks or end.end_reason is EndReason.CALLS)


def _is_of(record: TurnRecord, agent: str) -> bool:
    """Whether the turn was asked of that agent, in whichever dialect."""
    return record.model.partition("/")[0] == agent
