"""Decides what a sweep does with a turn or a container that it finds, as pure functions.

No I/O, no clock: the sweep gathers the facts, asks here, and carries out the answer.
"""

from __future__ import annotations

from enum import StrEnum

from infra.store.conversations.conversations import ConversationRecord
from infra.store.turns.turns import OpenTurnRef
from infra.wire.ids import HostId, WorkerId
from infra.wire.states import (
    TURN_TRANSITIONS,
    ConversationState,
    TurnState,
)
from worker.hosts.host import Container, ContainerId


class Sweep(StrEnum):
    """What to do about an open turn that nobody has claimed."""

    EXPIRE = "expire"
    """It has waited too long."""
    PLACE = "place"
    """Take it here: we own the conversation, or it belongs to our host."""
    HINT = "hint"
    """Offer it to the cluster (or its owner) again."""
    TELL_HOST = "tell_host"
    """Only a worker of the conversation's host can continue it: tell one."""
    WAIT = "wait"
    """The host's worker may be restarting."""
    END_HERE = "end_here"
    """Its host is gone: take it here in order to end it."""


def sweep(
    ref: OpenTurnRef,
    *,
    me: WorkerId,
    my_host: HostId,
    turn_host: HostId | None,
    hosts_alive: frozenset[HostId],
    host_patience_s: float,
    successor_patience_s: float,
    queue_timeout_s: float,
) -> Sweep:
    """Decide about one open turn. `turn_host` is the host of its conversation's container."""
    if ref.state is TurnState.QUEUED:
        if ref.age_ms > queue_timeout_s * 1000:
            return Sweep.EXPIRE
        return Sweep.PLACE if ref.owner == me else Sweep.HINT
    if ref.owner is not None and ref.owner != me:
        return Sweep.WAIT
    if ref.owner == me or turn_host in (None, my_host):
        return Sweep.PLACE
    if turn_host in hosts_alive:
        return Sweep.TELL_HOST
    patience_s = successor_patience_s if ref.is_left else host_patience_s
    return Sweep.END_HERE if ref.unowned_ms >= patience_s * 1000 else Sweep.WAIT


class Fate(StrEnum):
    """What to do with a container found on this host."""

    KEEP = "keep"
    ADOPT = "adopt"
    ORPHAN = "orphan"
    """Stop it if it is still an orphan after the grace time."""
    LEFT_BEHIND = "left_behind"
    """Its conversation has another container by now, here or elsewhere: stop it now."""


def container_fate(
    container: Container,
    record: ConversationRecord | None,
    *,
    my_host: HostId,
    is_mine: bool,
    mine: ContainerId | None,
    others_alive: frozenset[WorkerId],
) -> Fate:
    """Decide about one container of our cluster on this host.

    `is_mine`: this worker owns the conversation, with container `mine` (None if that is just
    starting).
    """
    if is_mine:
        return Fate.KEEP if mine in (None, container.id) else Fate.ORPHAN
    if record is None:
        return Fate.ORPHAN
    is_here = record.host in (None, my_host)
    is_recorded = record.container in (None, container.id)
    # The next container's start records host and container, under a newer fence. A cold record
    # under a newer fence means that its owner found no container: nobody continues with this one.
    is_cold = record.state is ConversationState.COLD and record.container is None
    if container.fence < record.fence and (is_cold or not (is_here and is_recorded)):
        return Fate.LEFT_BEHIND
    if not is_here:
        return Fate.ORPHAN
    if record.owner in others_alive:
        return Fate.KEEP if is_recorded else Fate.ORPHAN
    return Fate.ADOPT if is_recorded else Fate.ORPHAN


def is_begun(state: TurnState) -> bool:
    """Whether a turn has left the queue and not ended."""
    return state is not TurnState.QUEUED and bool(TURN_TRANSITIONS[state])
