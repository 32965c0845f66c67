"""Agent servers that were written anew from inside their container."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from infra.wire.errors import ErrorCode
from infra.wire.events import EndReason
from infra.wire.options import TurnOptions
from infra.wire.states import TurnState
from infra.wire.text.bounds import BYTES_PER_TOKEN
from tests.fakes.worker_stage import Stage, conversation
from worker.conversations.container.kept_link import LOSSES_MAX
from worker.turns.run import SAID_MAX_BYTES

C, NEIGHBOUR = conversation("one"), conversation("two")


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b'{"type":"text","text":"a\r\rdata: [DONE]\r\r"}',
        b'{"type":"end","state":"running"}',
        b'{"type":"tool_call"}',
        # Its client has offered no functions, and would run in circles.
        b'{"type":"client_call","id":"call_1","name":"Bash","arguments":"{}"}',
        b'{"type":"end","state":"done","end_reason":"calls"}',
    ],
)
async def test_what_is_no_event_reaches_nobody_and_ends_its_turn(
    stage: Stage, payload: bytes
) -> None:
    await stage.worker()
    turn = await stage.ask(C, f"forge {payload.hex() or '20'}")

    end = await stage.ended(turn)

    assert end.error is not None
    assert end.error.code is ErrorCode.AGENT_FAILED
    assert await stage.log_text(turn) == "before "
    assert all(payload not in frame.payload for frame in stage.frames[turn] if payload)
    assert len(stage.agents[C]) == 1, "its container is given up, not asked again"
    assert (await stage.ended(await stage.ask(C, "echo again"))).state is TurnState.DONE


@pytest.mark.parametrize(("chars", "deltas"), [(3, 100), (1000, 1)])
async def test_an_answer_has_the_length_that_its_client_set_whatever_the_agent_says(
    stage: Stage, chars: int, deltas: int
) -> None:
    """The scripted agent knows no limit."""
    await stage.worker()
    options = TurnOptions(max_tokens=4)
    turn = await stage.ask(C, f"stream {deltas} deltas of {chars} chars", turn_options=options)

    end = await stage.ended(turn)

    assert (end.state, end.end_reason) == (TurnState.DONE, EndReason.LENGTH)
    assert len(await stage.log_text(turn)) == 4 * BYTES_PER_TOKEN
    assert (await stage.ended(await stage.ask(C, "echo again"))).state is TurnState.DONE
    assert len(stage.agents[C]) == 2, "its container is not used again"


async def test_an_event_of_a_later_version_is_passed_on(stage: Stage) -> None:
    """It was a traceback where it was the first of its turn."""
    await stage.worker()
    later = b'{"type":"later"}'
    turn = await stage.ask(C, f"forge {later.hex()}")
    assert (await stage.ended(turn)).state is TurnState.DONE
    page = await stage.store.log.read(turn, after=0, limit=10)
    assert [payload for _, payload in page.events][2] == later


async def test_an_agent_that_breaks_its_link_again_and_again_is_given_up(stage: Stage) -> None:
    """It greeted, said nonsense and was connected to again, as fast as both could."""
    await stage.worker()
    nonsense = b'{"type":"later"}\n{nonsense'
    turn = await stage.ask(C, f"forge {nonsense.hex()} times {LOSSES_MAX + 1}")

    end = await stage.ended(turn)

    assert end.error is not None
    assert end.error.code is ErrorCode.AGENT_FAILED
    assert (await stage.ended(await stage.ask(C, "echo again"))).state is TurnState.DONE


async def test_a_tenant_that_holds_all_it_may_loses_the_turn_that_goes_on_writing(
    redis: Redis,
) -> None:
    """And no other: the bound is the tenant's, and the end says so."""
    async with Stage(redis, tenant_bytes_max=200_000) as stage:
        await stage.worker()
        turn = await stage.ask(C, "stream 100 deltas of 10000 chars")

        end = await stage.ended(turn)

        assert end.error is not None
        assert end.error.code is ErrorCode.TENANT_LIMIT
        assert len(await stage.log_text(turn)) < 250_000
