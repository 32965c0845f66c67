"""One turn of a conversation seen through: prepared, watched and logged until its end is told.

What becomes of conversation and container then is the actor's to decide
(`worker.conversations.actor`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from infra.wire.endings import declared_end
from infra.wire.errors import ErrorCode
from worker.turns.run import TurnRun
from worker.turns.steps import Ending


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
    prepare: Callable[[], Coroutine[Any, Any, None]],
    on_spoken: Callable[[], Coroutine[Any, Any, None]],
) -> Outcome:
    """Until the turn is closed or back in the queue. Raises `LeaseLost`, in a group.

    `prepare` gets the turn to its agent, and is cancelled when the end is decided before.
    `on_spoken` is called when the agent has spoken, or the end is decided. Cancelled, the turn
    stays as it is: the agent keeps its events for the next owner.
    """

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
