"""A conversation's recorded state, and the allowed transitions to change it.

Scripts change the record too (a claim, an end, a reap). `note` follows what they did; if the two
disagree, the record itself is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from infra.runtime.clock import Clock
from infra.store.conversations.conversations import ConversationRecord, ConversationStore
from infra.wire.errors import IllegalTransition
from infra.wire.states import CONVERSATION_TRANSITIONS, ConversationState, Hibernation
from worker.hosts.host import ContainerId
from worker.ownership import HeldLease
from worker.waiting import until_store_answers


class RecordedState:
    """The recorded state of one conversation that this worker owns."""

    def __init__(
        self,
        conversations: ConversationStore,
        held: HeldLease,
        found: ConversationRecord | None,
        clock: Clock,
    ) -> None:
        """`found` is the record before the lease was acquired."""
        self.state = found.state if found else ConversationState.COLD
        self._conversations = conversations
        self._clock = clock
        self._held = held

    def note(self, old: ConversationState, new: ConversationState) -> None:
        """A script has made this transition, if the record was in its first state."""
        if self.state is old:
            self.state = new

    def note_rest(self) -> None:
        """A script has found that no turn runs any longer."""
        self.note(ConversationState.BUSY, ConversationState.WARM)

    async def read(self) -> ConversationRecord | None:
        """The current record."""
        conversations, c = self._conversations, self._held.conversation
        return await until_store_answers(lambda: conversations.get(c), self._clock)

    async def reap(self) -> bool:
        """warm -> stopping, if the store agrees that the idle deadline has passed."""
        conversations, lease = self._conversations, self._held.lease
        won = await until_store_answers(
            lambda: conversations.reap(lease.conversation, lease.worker), self._clock
        )
        if won:
            self.state = ConversationState.STOPPING
        return won

    async def hibernate(self, reason: Hibernation) -> bool:
        """warm -> stopping, if the store agrees that no turn runs or waits. Raises `LeaseLost`."""
        conversations, lease = self._conversations, self._held.lease
        won = await until_store_answers(lambda: conversations.hibernate(lease, reason), self._clock)
        if won:
            self.state = ConversationState.STOPPING
        return won

    async def move(self, target: ConversationState, *, container: ContainerId | None) -> None:
        """Bring the record to a state, by allowed transitions. Raises `LeaseLost`.

        `container` is recorded with a conversation that is busy.
        """
        try:
            await self._step_to(target, container)
        except IllegalTransition:
            # A script moved it, or a reply was lost: the record says where it is.
            record = await self.read()
            self.state = record.state if record else ConversationState.COLD
            await self._step_to(target, container)

    async def _step_to(self, target: ConversationState, container: ContainerId | None) -> None:
        for state in steps(self.state, target):
            await self._update(state, container if state is ConversationState.BUSY else None)
            self.state = state

    async def _update(self, state: ConversationState, container: ContainerId | None) -> None:
        conversations, lease = self._conversations, self._held.lease
        await until_store_answers(
            lambda: conversations.update(lease, state, container=container), self._clock
        )


def steps(old: ConversationState, new: ConversationState) -> Sequence[ConversationState]:
    """The shortest allowed path from one state to another, without pretending that a host was
    lost."""
    if old is new:
        return ()
    ways: deque[tuple[ConversationState, tuple[ConversationState, ...]]] = deque([(old, ())])
    seen = {old}
    while ways:
        at, way = ways.popleft()
        for state in sorted(CONVERSATION_TRANSITIONS[at]):
            if state in seen or (state is ConversationState.LOST and new is not state):
                continue
            if state is new:
                return (*way, state)
            seen.add(state)
            ways.append((state, (*way, state)))
    raise IllegalTransition("conversation", old, new)
