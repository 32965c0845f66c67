"""The states of turns, conversations, workers and files: one enum and one transition table each.

Only the store's scripts write them; every program reads them. The diagrams in ARCHITECTURE.md are
generated from these tables (`python -m infra.reference.diagrams`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

from infra.wire.errors import IllegalTransition


class TurnState(StrEnum):
    """The state of a turn. The last five are terminal."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        return not TURN_TRANSITIONS[self]


class ConversationState(StrEnum):
    """What a conversation uses right now: nothing, a container, or a running turn."""

    COLD = "cold"
    STARTING = "starting"
    WARM = "warm"
    BUSY = "busy"
    STOPPING = "stopping"
    LOST = "lost"


class Hibernation(StrEnum):
    """Why an idle conversation's container was stopped before its deadline, for the sake of
    others."""

    MEMORY = "memory"
    """Its host had little memory left."""
    ROOM = "room"
    """Another conversation needed its slot."""


class WorkerState(StrEnum):
    """Whether a worker takes conversations that it does not own yet: only a ready one does."""

    READY = "ready"
    FAILING = "failing"
    """Its containers do not start. Its running conversations continue, and it may recover."""
    DRAINING = "draining"
    """It is shutting down."""


class FileState(StrEnum):
    """How far the record of a file is. Only a ready one is shown."""

    UPLOADING = "uploading"
    PART = "part"
    """A whole part of an upload, which will go when the upload is over."""
    READY = "ready"
    DELETING = "deleting"
    """Nobody finds it any more; its record goes when its bytes are gone."""


TURN_TRANSITIONS: Mapping[TurnState, frozenset[TurnState]] = {
    TurnState.QUEUED: frozenset({TurnState.CLAIMED, TurnState.CANCELLED, TurnState.EXPIRED}),
    # It returns to the queue only if its log is empty and attempts are left: tools are not
    # idempotent.
    TurnState.CLAIMED: frozenset(
        {
            TurnState.RUNNING,
            TurnState.QUEUED,
            TurnState.FAILED,
            TurnState.CANCELLED,
            TurnState.INTERRUPTED,
        }
    ),
    TurnState.RUNNING: frozenset(
        {TurnState.DONE, TurnState.FAILED, TurnState.CANCELLED, TurnState.INTERRUPTED}
    ),
    TurnState.DONE: frozenset(),
    TurnState.FAILED: frozenset(),
    TurnState.CANCELLED: frozenset(),
    TurnState.INTERRUPTED: frozenset(),
    TurnState.EXPIRED: frozenset(),
}

CONVERSATION_TRANSITIONS: Mapping[ConversationState, frozenset[ConversationState]] = {
    ConversationState.COLD: frozenset({ConversationState.STARTING}),
    ConversationState.STARTING: frozenset(
        {ConversationState.BUSY, ConversationState.STOPPING, ConversationState.LOST}
    ),
    ConversationState.WARM: frozenset(
        {ConversationState.BUSY, ConversationState.STOPPING, ConversationState.LOST}
    ),
    ConversationState.BUSY: frozenset(
        {ConversationState.WARM, ConversationState.STOPPING, ConversationState.LOST}
    ),
    ConversationState.STOPPING: frozenset({ConversationState.COLD, ConversationState.LOST}),
    ConversationState.LOST: frozenset({ConversationState.COLD, ConversationState.STARTING}),
}

WORKER_TRANSITIONS: Mapping[WorkerState, frozenset[WorkerState]] = {
    WorkerState.READY: frozenset({WorkerState.FAILING, WorkerState.DRAINING}),
    WorkerState.FAILING: frozenset({WorkerState.READY, WorkerState.DRAINING}),
    WorkerState.DRAINING: frozenset(),
}

FILE_TRANSITIONS: Mapping[FileState, frozenset[FileState]] = {
    FileState.UPLOADING: frozenset({FileState.PART, FileState.READY, FileState.DELETING}),
    FileState.PART: frozenset({FileState.DELETING}),
    FileState.READY: frozenset({FileState.DELETING}),
    FileState.DELETING: frozenset(),
}

State = TypeVar("State", bound=StrEnum)


def advance(
    thing: str,
    old: State,
    new: State,
    table: Mapping[State, frozenset[State]],
    story: Sequence[str] = (),
) -> State:
    """The new state. Raises `IllegalTransition` with the object's history.

    Staying in a terminal state is allowed.
    """
    if new in table[old] or (new == old and not table[old]):
        return new
    raise IllegalTransition(thing, old, new, story)
