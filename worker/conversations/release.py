"""How an actor that ends releases its lease. Each function returns a waiting turn.

Only the caller is told of that turn, and has to offer it to another worker.
"""

from __future__ import annotations

import asyncio
import logging

from infra.runtime.logs import fields
from infra.wire.errors import IllegalTransition, LeaseLost, StoreUnavailable
from infra.wire.ids import TurnId
from infra.wire.states import ConversationState
from worker.conversations.recorded_state import RecordedState
from worker.ownership import HeldLease
from worker.parts import ConversationParts
from worker.turns.run import TurnRun

log = logging.getLogger(__name__)


async def go_cold(parts: ConversationParts, held: HeldLease) -> TurnId | None:
    """There is neither a turn nor a container. If the lease cannot be released, it expires."""
    try:
        return await parts.ownership.release(held, ConversationState.COLD)
    except StoreUnavailable as error:
        log.warning("lease left to lapse: %s", error, extra=fields(conversation=held.conversation))
        return None


async def hand_over(
    parts: ConversationParts, held: HeldLease, record: RecordedState, run: TurnRun | None
) -> TurnId | None:
    """Log what waits of the running turn, and leave everything else as it is. Takes bounded
    time."""
    c, waiting = held.conversation, None
    try:
        async with asyncio.timeout(parts.timings.hand_over_s):
            if run is not None:
                await run.append_rest()
            waiting = await _released(parts, held, record, runs=None if run is None else run.turn)
    except (StoreUnavailable, LeaseLost, TimeoutError) as error:
        log.warning("not handed over: %r", error, extra=fields(conversation=c))
        parts.ownership.forget(held)
    parts.gateway.forget(c)
    log.info("handed over", extra=fields(conversation=c, turn=run and run.turn))
    return waiting


async def _released(
    parts: ConversationParts, held: HeldLease, record: RecordedState, *, runs: TurnId | None
) -> TurnId | None:
    """The conversation stays in its recorded state. That may differ from ours, because an answer
    was lost or a script changed it."""
    try:
        return await parts.ownership.release(held, record.state, runs=runs)
    except IllegalTransition:
        found = await record.read()
        state = found.state if found else ConversationState.COLD
        return await parts.ownership.release(held, state, runs=runs)
