"""The phases of a conversation's actor, one enum and one table, and what others may want of it.

They exist only in this process; `infra.wire.states` has the states that other programs see.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum, auto


class ActorPhase(StrEnum):
    """What a conversation's actor is doing."""

    RECOVERING = "recovering"
    """Finds what a previous owner left."""
    LOOKING = "looking"
    """Decides what is next: a turn, rest, or an end."""
    RUNNING = "running"
    """A turn is in progress, from its claim to its end."""
    RESTING = "resting"
    """The container is warm, and there is nothing to do."""
    STOPPING = "stopping"
    """The container is being stopped."""
    GONE = "gone"
    """The lease is released, lost or handed over."""


ACTOR_TRANSITIONS: Mapping[ActorPhase, frozenset[ActorPhase]] = {
    ActorPhase.RECOVERING: frozenset({ActorPhase.LOOKING, ActorPhase.GONE}),
    # Again after each answer of the store.
    ActorPhase.LOOKING: frozenset(
        {
            ActorPhase.LOOKING,
            ActorPhase.RUNNING,
            ActorPhase.RESTING,
            ActorPhase.STOPPING,
            ActorPhase.GONE,
        }
    ),
    ActorPhase.RUNNING: frozenset({ActorPhase.LOOKING, ActorPhase.STOPPING, ActorPhase.GONE}),
    ActorPhase.RESTING: frozenset({ActorPhase.LOOKING, ActorPhase.GONE}),
    ActorPhase.STOPPING: frozenset({ActorPhase.LOOKING, ActorPhase.GONE}),
    ActorPhase.GONE: frozenset(),
}


class Departure(Enum):
    """How an actor ended."""

    COLD = auto()
    """Nothing waits and no container is left; the lease is released."""
    LOST = auto()
    """The lease is lost; the container was left alone."""
    HANDED_OVER = auto()
    """The lease is released, container and turn left for the next owner."""
    BROKEN = auto()
    """Ended by a bug of ours; the sweeps check it again at their own interval."""


class Wish(Enum):
    """What others want of an actor; it handles them between two turns."""

    TURN = auto()
    """That it looks for a turn: one may be waiting."""
    ROOM = auto()
    """The container's place, if no turn wants it."""
    REAP = auto()
    """The container's end, if the store agrees that the idle deadline has passed."""
    HIBERNATE = auto()
    """The container's end before that, if the store agrees that no turn wants it."""
    RETIRE = auto()
    """The container's end, whatever waits."""
    DRAIN = auto()
    """Container and conversation left to another worker."""
    LEAVE = auto()
    """The same at once, in the middle of whatever it does."""


OF_THE_IDLE = frozenset({Wish.ROOM, Wish.REAP, Wish.HIBERNATE})
"""Wishes that no longer apply when a turn runs."""
