"""One turn of a conversation seen through: prepared, watched and logged until its end is told.

What becomes of conversation and container then is the actor's to decide
(`worker.conversations.actor`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from infra.runtime.logs import fields
from infra.wire.endings import declared_end
from infra.wire.errors import ErrorCode
from infra.wire.link import InterruptReason
from worker.turns.run import TurnRun
from worker.turns.steps import Ending

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a turn leaves behind."""

    is_container_usable: bool
    """Whether the next turn may run in the same container."""
    is_remembered: bool
    """Its agent has kept its session. After a turn that failed it may have given that up."""
    is_another_waiting: bool = False
    """A turn waits; it may be this one again."""
    is_given_away: bool = False
    """It is back in the queue for another worker, for this host's engine has failed."""


async def see_through(
    run: TurnRun,
    *,
    is_cancelled: bool,
    prepare: Callable[[], Coroutine[Any, Any, None]],
    on_spoken: Callable[[], Coroutine[Any, Any, None]],
) -> Outcome:
    """Until the turn is closed or back in the queue. Raises `LeaseLost`, in a group.

    `is_cancelled`: somebody has wanted it stopped already. `prepare` gets the turn to its agent,
    and is cancelled when the end is decided before. `on_spoken` is called when the agent has
    spoken, or the end is decided. Cancelled, the turn stays as it is: the agent keeps its events
    for the next owner.
    """
    _tell_claimed(run)
    if is_cancelled or run.claimed.record.cancel is not None:
        run.interrupt(InterruptReason.CANCELLED)

    async def when_spoken() -> None:
        await run.spoke.wait()
        await on_spoken()

    async with asyncio.TaskGroup() as group:
        logging_events = group.create_task(run.log_events())
        watching = group.create_task(run.watch())
        group.create_task(when_spoken())
        preparing = group.create_task(prepare())
        ending = await run.ended()
        watching.cancel()
        preparing.cancel()
        # A start under way cleans up after itself before anything else happens here.
        await asyncio.wait({preparing})
        outcome = await _concluded(run, ending)
        logging_events.cancel()
    return outcome


def _tell_claimed(run: TurnRun) -> None:
    record, is_adoption = run.claimed.record, run.claimed.is_adoption
    log.info(
        "turn claimed",
        extra=fields(
            turn=run.turn,
            conversation=record.conversation,
            fence=record.fence,
            attempt=record.attempt,
            adopted=is_adoption or None,
        ),
    )


async def _concluded(run: TurnRun, ending: Ending) -> Outcome:
    outcome = Outcome(
        is_container_usable=ending.is_container_usable,
        is_remembered=ending.end is not None and ending.end.error is None,
    )
    if ending.end is None:
        if await run.requeue(is_counted=ending.is_counted):
            is_here, is_elsewhere = ending.is_counted, not ending.is_counted
            return replace(outcome, is_another_waiting=is_here, is_given_away=is_elsewhere)
        ending = replace(ending, end=declared_end(ErrorCode.CONTAINER_FAILED))
    return replace(outcome, is_another_waiting=await run.conclude(ending))
