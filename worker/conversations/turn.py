"""Runs one turn of a conversation to its end: prepares it, watches it, logs it.

What happens to conversation and container afterwards is decided by the actor
(`worker.conversations.actor`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from infra.metrics.worker import ADOPTIONS, WAIT_SECONDS
from infra.runtime.logs import fields
from infra.wire.endings import declared_end
from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded, TurnFiles
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
    """Whether its agent has kept its session. After a failed turn it may have given it up."""
    is_another_waiting: bool = False
    """Whether a turn waits, which may be this one again."""
    is_given_away: bool = False
    """Whether it is back in the queue for another worker, because this host's engine failed."""


async def see_through(
    run: TurnRun,
    *,
    is_cancelled: bool,
    prepare: Callable[[], Coroutine[Any, Any, None]],
    on_spoken: Callable[[], Coroutine[Any, Any, None] | None],
    keep_files: Callable[[TurnEnded], Awaitable[TurnFiles | None]],
) -> Outcome:
    """Run until the turn is closed or back in the queue. Raises `LeaseLost`, in a group.

    `is_cancelled`: somebody already wants it stopped. `prepare` brings the turn to its agent, and
    is cancelled if the turn's end is decided before. `on_spoken` is called when the agent has sent
    its first event, or the end is decided; what it returns is run beside the turn. `keep_files`
    keeps what the turn has made, before it ends. If cancelled, the turn stays as it is: the agent
    keeps its events for the next owner.
    """
    _tell_claimed(run)
    if is_cancelled or run.claimed.record.cancel is not None:
        run.interrupt(InterruptReason.CANCELLED)
    async with asyncio.TaskGroup() as group:
        logging_events = group.create_task(run.log_events())
        preparing = group.create_task(prepare())

        def spoken() -> None:
            if (work := on_spoken()) is None:
                return
            try:
                group.create_task(work)
            except RuntimeError:
                # The group ends, because the lease is lost; its actor forgets the start.
                work.close()

        async with run.watched(on_spoken=spoken):
            ending = await run.ended()
        if not preparing.done():
            preparing.cancel()
            # A start under way cleans up after itself before anything else happens here.
            await asyncio.wait({preparing})
        outcome = await _concluded(run, ending, keep_files)
        logging_events.cancel()
    return outcome


def _tell_claimed(run: TurnRun) -> None:
    record, is_adoption = run.claimed.record, run.claimed.is_adoption
    if is_adoption:
        ADOPTIONS.inc()
    else:
        WAIT_SECONDS.labels(record.lane.value).observe(run.waited_s)
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


async def _concluded(
    run: TurnRun,
    ending: Ending,
    keep_files: Callable[[TurnEnded], Awaitable[TurnFiles | None]],
) -> Outcome:
    outcome = Outcome(
        is_container_usable=ending.is_container_usable,
        is_remembered=ending.end is not None and ending.end.error is None,
    )
    if ending.end is None:
        if await run.requeue(is_counted=ending.is_counted):
            is_here, is_elsewhere = ending.is_counted, not ending.is_counted
            return replace(outcome, is_another_waiting=is_here, is_given_away=is_elsewhere)
        ending = replace(ending, end=declared_end(ErrorCode.CONTAINER_FAILED))
    assert ending.end is not None
    made = await keep_files(ending.end) if run.has_used_tools else None
    return replace(outcome, is_another_waiting=await run.conclude(ending, made=made))
