"""Stop sequences, sampling and effort in a side request."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from infra.wire.events import EndReason
from infra.wire.gateway import SideCall
from infra.wire.options import Effort, Sampling, TurnOptions
from infra.wire.states import TurnState
from tests.fakes.memory_gateway import SSE_END, SSE_START, sse_text, stream_of
from tests.fakes.worker_stage import Stage, conversation
from worker.gateway_client.client import UpstreamAnswer

C = conversation("bounded")


def answer_of(*pieces: str) -> bytes:
    return SSE_START + b"".join(map(sse_text, pieces)) + SSE_END


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (
            (
                "one E",
                "ND two",
            ),
            "one ",
        ),
        (("one E", "N"), "one EN"),
        (("END",), ""),
    ],
)
async def test_an_answer_ends_before_its_stop_sequence(
    redis: Redis, pieces: tuple[str, ...], shown: str
) -> None:
    async with Stage(redis) as stage:
        stage.gateway.upstream = lambda call: UpstreamAnswer(
            200, None, stream_of(answer_of(*pieces))
        )
        await stage.worker()
        turn = await stage.ask_side(C, "Title", turn_options=TurnOptions(stop=("END", "\n")))
        end = await stage.ended(turn)
        assert (end.state, end.end_reason) == (TurnState.DONE, EndReason.DONE)
        assert await stage.log_text(turn) == shown
        assert stage.gateway.side_calls[0].body["stop_sequences"] == ["END"]


async def test_a_model_that_refuses_a_temperature_is_asked_without(redis: Redis) -> None:
    def upstream(call: SideCall) -> UpstreamAnswer:
        is_refused = "temperature" in call.body
        said = b"{}" if is_refused else answer_of("fine")
        return UpstreamAnswer(400 if is_refused else 200, None, stream_of(said))

    async with Stage(redis) as stage:
        stage.gateway.upstream = upstream
        await stage.worker()
        chosen = Sampling(temperature=1.5, top_p=0.5)
        turn = await stage.ask_side(C, "Title", turn_options=TurnOptions(sampling=chosen))
        assert (await stage.ended(turn)).state is TurnState.DONE
        assert await stage.log_text(turn) == "fine"
        first, second = (call.body for call in stage.gateway.side_calls)
        assert (first["temperature"], "top_p" in first) == (1.0, False)
        assert not {"temperature", "top_p"} & second.keys()


async def test_a_model_that_refuses_to_think_is_asked_without(redis: Redis) -> None:
    def upstream(call: SideCall) -> UpstreamAnswer:
        is_refused = "thinking" in call.body
        said = b"{}" if is_refused else answer_of("fine")
        return UpstreamAnswer(400 if is_refused else 200, None, stream_of(said))

    async with Stage(redis) as stage:
        stage.gateway.upstream = upstream
        await stage.worker()
        chosen = TurnOptions(effort=Effort.LOW, sampling=Sampling(temperature=0.5))
        turn = await stage.ask_side(C, "Title", turn_options=chosen)
        assert (await stage.ended(turn)).state is TurnState.DONE
        first, second = (call.body for call in stage.gateway.side_calls)
        assert "temperature" not in first, "a model that thinks takes none"
        assert not {"thinking", "output_config"} & second.keys()


async def test_the_text_has_its_limit_beside_what_was_thought(redis: Redis) -> None:
    async with Stage(redis) as stage:
        stage.gateway.upstream = lambda call: UpstreamAnswer(
            200, None, stream_of(answer_of("one two three four five"))
        )
        await stage.worker()
        chosen = TurnOptions(effort=Effort.HIGH, max_tokens=2)
        turn = await stage.ask_side(C, "Title", turn_options=chosen)
        end = await stage.ended(turn)
        assert (end.state, end.end_reason) == (TurnState.DONE, EndReason.LENGTH)
        assert await stage.log_text(turn) == "one two "
        assert stage.gateway.side_calls[0].body["max_tokens"] > 10_000
