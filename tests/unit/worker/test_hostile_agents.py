"""Agent servers that were written anew from inside their container."""

from __future__ import annotations

import pytest

from infra.wire.errors import ErrorCode
from infra.wire.states import TurnState
from tests.fakes.worker_stage import Stage, conversation
from worker.turns import SAID_MAX_BYTES

pytestmark = pytest.mark.slow

C, NEIGHBOUR = conversation("one"), conversation("two")


async def test_who_says_more_than_a_turn_may_does_not_fill_redis_for_everybody(
    stage: Stage,
) -> None:
    await stage.worker()
    chars = 1024 * 1024
    turn = await stage.ask(C, f"stream {2 * SAID_MAX_BYTES // chars} deltas of {chars} chars")

    end = await stage.ended(turn)

    assert end.error is not None
    assert end.error.code is ErrorCode.AGENT_FAILED
    assert len(await stage.log_text(turn)) <= SAID_MAX_BYTES
    again = await stage.ended(await stage.ask(C, "echo again"))
    assert again.state is TurnState.DONE
    assert (await stage.ended(await stage.ask(NEIGHBOUR, "echo hi"))).state is TurnState.DONE
