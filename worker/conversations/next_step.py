"""Decides what a conversation's actor does next, as pure functions of the known facts.

No I/O, no clock: `worker.conversations.actor` gathers the facts, asks here, and carries out the
answer.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import Enum, auto

from infra.wire.ids import TurnId
from infra.wire.states import ConversationState
from worker.conversations.phases import Departure, Wish
from worker.hosts.host import Container


class Step(Enum):
    """What an actor does between two turns."""

    HAND_OVER = auto()
    """Leave container and conversation to another worker."""
    CLAIM = auto()
    """Ask the store for the next turn, and run it."""
    ASK_TO_REAP = auto()
    """Ask the store whether the idle deadline has passed."""
    ASK_TO_HIBERNATE = auto()
    """Ask the store whether the container may go before that."""
    STOP = auto()
    """Stop the container."""
    REST = auto()
    """Wait, warm."""
    GO_COLD = auto()
    """Release the lease: there is neither a turn nor a container."""


@dataclass(frozen=True)
class Facts:
    """What an actor knows between two turns."""

    wishes: Set[Wish]
    has_container: bool
    is_container_lost: bool = False
    """Whether the container has ended, or its agent was given up."""
    is_reaped: bool = False
    """Whether the store has agreed that the container stops."""
    gives_way: bool = False
    """Its place is for another tenant's conversation, its next turn for the waiting room."""


def next_step(facts: Facts) -> Step:
    """The next step. A container that the store has released is stopped first. Then, in this order:
    an order to leave, a turn, and wishes about the container."""
    if facts.is_reaped and facts.has_container:
        return Step.STOP
    if Wish.DRAIN in facts.wishes:
        return Step.HAND_OVER
    if Wish.TURN in facts.wishes and Wish.RETIRE not in facts.wishes and not facts.gives_way:
        return Step.CLAIM
    if not facts.has_container:
        return Step.GO_COLD
    if facts.is_container_lost or facts.gives_way or facts.wishes & {Wish.ROOM, Wish.RETIRE}:
        return Step.STOP
    if Wish.HIBERNATE in facts.wishes:
        return Step.ASK_TO_HIBERNATE
    return Step.ASK_TO_REAP if Wish.REAP in facts.wishes else Step.REST


# At the beginning


@dataclass(frozen=True)
class Inheritance:
    """What a previous owner left on this host."""

    kept: Container | None
    """The container that is ours now."""
    is_usable: bool
    """Whether its agent may continue; otherwise it is stopped."""
    others: tuple[Container, ...] = ()
    """Other containers, which are stopped at once."""


def inherit(
    found: Sequence[Container], *, recorded: str | None, state: ConversationState
) -> Inheritance:
    """Which of the containers found here to continue with. `state` is the conversation's recorded
    state.

    A container without a record was left behind when the conversation moved: it remembers less, and
    does not know turns that were started elsewhere.
    """
    running = next((c for c in found if c.is_running and c.id == recorded), None)
    kept = running or next(iter(found), None)
    return Inheritance(
        kept,
        is_usable=running is not None and state is not ConversationState.STOPPING,
        others=tuple(c for c in found if c is not kept),
    )


# At the end


@dataclass(frozen=True)
class Left:
    """How an actor ended, and what it leaves to others."""

    how: Departure
    waiting: TurnId | None = None
    """A turn that waited when the lease was released; nobody else was told of it."""
    container: Container | None = None
    """The container it left as it was."""
    is_turn_wanted: bool = False
    """Whether a turn may be waiting that it would have run if it had not left."""
    is_put_off: bool = False
    """Whether it could not serve what waits; the sweeps try again at their own interval."""

    @property
    def makes_room(self) -> bool:
        """Whether its place is free for what waits. What it could not serve itself is next in the
        waiting room, and is left to the sweeps."""
        return self.how is not Departure.BROKEN and not self.is_put_off

    @property
    def is_to_be_taken_again(self) -> bool:
        """Whether to take the conversation again: nobody else may have taken a lost lease, or a
        turn arrived while it left."""
        return self.how is Departure.LOST or (self.how is Departure.COLD and self.is_turn_wanted)
