"""Side turns on a worker: one model call, nothing else, and an end in every trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded, Usage
from infra.wire.gateway import GatewayFault, GatewayRefused, SideCall
from infra.wire.states import TurnState
from tests.fakes.memory_gateway import SSE_END, SSE_START, sse_text, stream_of
from tests.fakes.worker_stage import Stage, conversation, eventually
from worker.gateway_client.client import CommandRefused, UpstreamAnswer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

C = conversation("side")


def code_of(end: TurnEnded) -> ErrorCode | None:
    return end.error.code if end.error else None


class Model:
    """An upstream that says what it is told, when it is told, and never closes."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self._more: asyncio.Queue[bytes] = asyncio.Queue()

    def __call__(self, call: SideCall) -> UpstreamAnswer:
        self.is_asked.set()
        return UpstreamAnswer(200, None, self._chunks())

    def say(self, chunk: bytes) -> None:
        self._more.put_nowait(chunk)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._more.get()


async def test_a_side_turn_is_one_model_call_without_a_container(redis: Redis) -> None:
    async with Stage(redis) as stage:
        await stage.worker()
        turn = await stage.ask_side(C, "Weekend Plans")
        end = await stage.ended(turn)
        assert end.state is TurnState.DONE
        assert end.usage == Usage(input_tokens=7, output_tokens=5)
        assert await stage.log_text(turn) == "Weekend Plans"
        await eventually(lambda: stage.live_text(turn) == "Weekend Plans")
        [call] = stage.gateway.side_calls
        assert (call.turn, call.body["max_tokens"]) == (turn, stage.settings.side_max_tokens)
        assert stage.containers() == []
        assert stage.gateway.sessions == {}


async def test_a_side_turn_takes_no_slot_and_gives_its_lease_back(redis: Redis) -> None:
    async with Stage(redis) as stage:
        worker = await stage.worker(slots=1)
        busy = await stage.ask(conversation("busy"), "hang")
        await stage.until_said(busy, 1)

        turn = await stage.ask_side(C, "Title")

        assert (await stage.ended(turn)).state is TurnState.DONE
        await eventually(lambda: worker.process.side.used == 0)
        record = await stage.store.conversations.get(C)
        assert record is not None
        assert record.owner is None
        await stage.cancel(busy)


async def test_what_a_side_turn_says_is_live_before_it_ends(redis: Redis) -> None:
    async with Stage(redis) as stage:
        model = stage.gateway.upstream = Model()
        await stage.worker()
        turn = await stage.ask_side(C, "Title")
        model.say(SSE_START + sse_text("Week"))
        await eventually(lambda: stage.live_text(turn) == "Week")
        model.say(sse_text("end") + SSE_END)
        assert (await stage.ended(turn)).state is TurnState.DONE
        assert await stage.log_text(turn) == "Weekend"


async def test_a_cancelled_side_turn_hangs_up_and_ends(redis: Redis) -> None:
    async with Stage(redis) as stage:
        model = stage.gateway.upstream = Model()
        await stage.worker()
        turn = await stage.ask_side(C, "Title")
        model.say(SSE_START + sse_text("Week"))
        await stage.until_said(turn, 1)

        await stage.cancel(turn)

        end = await stage.ended(turn)
        assert end.state is TurnState.CANCELLED
        assert end.usage == Usage(input_tokens=7)
        assert stage.gateway.side_hung_up == [turn]
        assert await stage.log_text(turn) == "Week"


async def test_a_side_turn_ends_at_its_deadline(redis: Redis) -> None:
    async with Stage(redis) as stage:
        stage.gateway.upstream = Model()
        await stage.worker()
        turn = await stage.ask_side(C, "Title", deadline_s=0.3)
        assert code_of(await stage.ended(turn)) is ErrorCode.TURN_TIMED_OUT
        assert stage.gateway.side_hung_up == [turn]


async def test_an_upstreams_refusal_is_the_turns_error(redis: Redis) -> None:
    async with Stage(redis) as stage:
        stage.gateway.upstream = lambda call: UpstreamAnswer(429, 9.0, stream_of(b"{}"))
        await stage.worker()
        end = await stage.ended(await stage.ask_side(C, "Title"))
        assert end.error is not None
        assert (end.error.code, end.error.retry_after_s) == (ErrorCode.RATE_LIMITED, 9.0)


async def test_a_restarting_gateway_is_waited_for(redis: Redis) -> None:
    async with Stage(redis) as stage:
        await stage.worker()
        stage.gateway.failures = 2
        assert (await stage.ended(await stage.ask_side(C, "Title"))).state is TurnState.DONE


async def test_a_key_that_cannot_be_read_is_said(redis: Redis) -> None:
    def refuse(call: SideCall) -> UpstreamAnswer:
        fault = GatewayFault.KEY_NOT_OPENED
        raise CommandRefused(GatewayRefused(fault=fault, message="no"))

    async with Stage(redis) as stage:
        stage.gateway.upstream = refuse
        await stage.worker()
        assert code_of(await stage.ended(await stage.ask_side(C, "Title"))) is ErrorCode.INVALID_KEY


async def test_a_hint_that_was_lost_is_made_up_for_by_the_sweep(redis: Redis) -> None:
    async with Stage(redis) as stage:
        await stage.worker()
        turn = await stage.ask_side(C, "Title", is_hinted=False)
        assert (await stage.ended(turn)).state is TurnState.DONE


async def test_a_side_turn_of_a_dead_worker_runs_again_when_it_had_said_nothing(
    redis: Redis,
) -> None:
    async with Stage(redis) as stage:
        model = stage.gateway.upstream = Model()
        first = await stage.worker()
        turn = await stage.ask_side(C, "Title")
        await model.is_asked.wait()
        await first.kill()
        model.say(SSE_START + sse_text("Title") + SSE_END)
        stage.gateway.upstream = lambda call: UpstreamAnswer(
            200, None, stream_of(SSE_START, sse_text("Title"), SSE_END)
        )
        await stage.lapse_lease(C)
        await stage.worker()
        assert (await stage.ended(turn)).state is TurnState.DONE
        assert await stage.log_text(turn) == "Title"


async def test_a_side_turn_of_a_dead_worker_ends_visibly_when_it_had_begun(redis: Redis) -> None:
    async with Stage(redis) as stage:
        model = stage.gateway.upstream = Model()
        first = await stage.worker()
        turn = await stage.ask_side(C, "Title")
        model.say(SSE_START + sse_text("Tit"))
        await stage.until_state(turn, TurnState.RUNNING)
        await first.kill()
        await stage.lapse_lease(C)
        await stage.worker()
        end = await stage.ended(turn)
        assert (end.state, code_of(end)) == (TurnState.INTERRUPTED, ErrorCode.SHUTTING_DOWN)
        assert await stage.log_text(turn) == "Tit"


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_side_turn_that_no_worker_can_read_ends(redis: Redis, has_begun: bool) -> None:
    """Sealed with another content secret, or by another version: each sweep tried it again, and one
    that had begun never ended."""
    async with Stage(redis) as stage:
        model = stage.gateway.upstream = Model()
        first = await stage.worker()
        if has_begun:
            turn = await stage.ask_side(C, "Title")
            model.say(SSE_START + sse_text("Tit"))
            await stage.until_state(turn, TurnState.RUNNING)
            await first.kill()
        else:
            await first.kill()
            turn = await stage.ask_side(C, "Title", is_hinted=False)
        await stage.redis.set(stage.keys.turn_request(turn), b"s1.not to be read", keepttl=True)
        await stage.lapse_lease(C)

        worker = await stage.worker()

        end = await stage.ended(turn)
        assert (end.state, code_of(end)) == (TurnState.FAILED, ErrorCode.INTERNAL)
        assert await stage.log_text(turn) == ("Tit" if has_begun else "")
        await eventually(lambda: worker.process.side.used == 0)
        record = await stage.store.conversations.get(C)
        assert record is not None
        assert record.owner is None


async def test_a_leaving_worker_lets_its_side_turns_end(redis: Redis) -> None:
    async with Stage(redis) as stage:
        model = stage.gateway.upstream = Model()
        worker = await stage.worker()
        turn = await stage.ask_side(C, "Title")
        await model.is_asked.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.stop())
            await eventually(lambda: not worker.process.side.has_room())
            model.say(SSE_START + sse_text("Title") + SSE_END)
        assert (await stage.ended(turn)).state is TurnState.DONE
        assert await stage.log_text(turn) == "Title"


async def test_a_leaving_worker_stops_a_side_turn_that_takes_too_long(redis: Redis) -> None:
    async with Stage(redis, drain_timeout_s=0.2) as stage:
        model = stage.gateway.upstream = Model()
        worker = await stage.worker()
        turn = await stage.ask_side(C, "Title")
        await model.is_asked.wait()
        await worker.stop()
        assert (await stage.ended(turn)).state is TurnState.INTERRUPTED


async def test_more_side_turns_than_places_are_all_answered(redis: Redis) -> None:
    async with Stage(redis) as stage:
        await stage.worker()
        await stage.worker()
        turns = [await stage.ask_side(conversation(f"s{i}"), f"Title {i}") for i in range(80)]
        for i, turn in enumerate(turns):
            assert (await stage.ended(turn)).state is TurnState.DONE
            assert await stage.log_text(turn) == f"Title {i}"
