"""Side turns whose answer has to be JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from infra.wire.errors import ErrorCode, GatewayUnavailable
from infra.wire.events import EndReason, TurnEnded, Usage
from infra.wire.form.tool import FORM_TOOL, TRIES
from infra.wire.gateway import SideCall
from infra.wire.ids import TurnId
from infra.wire.options import AnswerForm, TurnOptions
from infra.wire.states import TurnState
from tests.fakes.memory_gateway import SSE_END, SSE_START, sse, sse_text, stream_of
from tests.fakes.worker_stage import Stage, conversation
from worker.gateway_client.client import UpstreamAnswer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

C = conversation("formed")
FORM = AnswerForm(
    name="title",
    schema_text=json.dumps(
        {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    ),
)
GOOD = {"title": "Weekend in Rome"}
USED = Usage(input_tokens=7, output_tokens=5)


def prose(text: str) -> bytes:
    return SSE_START + sse_text(text) + SSE_END


def called(*given: Any, text: str = "", stop: str = "tool_use") -> bytes:
    """Calls of the tool, their inputs in pieces."""
    calls = [a_call(one, id=f"toolu_{number}") for number, one in enumerate(given, 1)]
    end = SSE_END.replace(b"end_turn", stop.encode())
    return b"".join([SSE_START, sse_text(text) if text else b"", *calls, end])


def a_call(given: Any, *, id: str, name: str = FORM_TOOL) -> bytes:
    raw = given if isinstance(given, str) else json.dumps(given)
    block = {"type": "tool_use", "id": id, "name": name, "input": {}}
    return sse(
        {"type": "content_block_start", "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "delta": {"type": "input_json_delta", "partial_json": raw[at : at + 5]},
            }
            for at in range(0, len(raw), 5)
        ),
        {"type": "content_block_stop"},
    )


async def ended(stage: Stage, *answers: bytes, form: AnswerForm = FORM) -> tuple[TurnId, TurnEnded]:
    """The end of a turn whose calls are answered like this, the last answer for all further
    ones."""
    left = list(answers)

    def upstream(call: SideCall) -> UpstreamAnswer:
        return UpstreamAnswer(200, None, stream_of(left.pop(0) if len(left) > 1 else left[0]))

    stage.gateway.upstream = upstream
    await stage.worker()
    turn = await stage.ask_side(C, "Title", turn_options=TurnOptions(answer_form=form))
    return turn, await stage.ended(turn)


async def test_the_answer_is_exactly_the_json_of_the_call(redis: Redis) -> None:
    async with Stage(redis) as stage:
        turn, end = await ended(stage, called(GOOD, text="Here it is:"))
        assert (end.state, end.end_reason, end.usage) == (TurnState.DONE, EndReason.DONE, USED)
        assert await stage.log_text(turn) == '{"title":"Weekend in Rome"}'
        [asked] = stage.gateway.side_calls
        assert [tool["name"] for tool in asked.body["tools"]] == [FORM_TOOL]
        assert asked.body["tools"][0]["input_schema"] == json.loads(FORM.schema_text or "")
        assert asked.body["tool_choice"] == {
            "type": "tool",
            "name": FORM_TOOL,
            "disable_parallel_tool_use": True,
        }


async def test_an_answer_that_does_not_fit_is_given_back_with_what_is_wrong(redis: Redis) -> None:
    async with Stage(redis) as stage:
        turn, end = await ended(stage, called({"title": 5}), called(GOOD))
        assert end.state is TurnState.DONE
        assert json.loads(await stage.log_text(turn)) == GOOD
        assert end.usage == USED + USED
        told = stage.gateway.side_calls[1].body["messages"]
        assert [message["role"] for message in told] == ["user", "assistant", "user"]
        assert told[1]["content"][0]["input"] == {"title": 5}
        result = told[2]["content"][0]
        assert (result["tool_use_id"], result["is_error"]) == ("toolu_1", True)
        assert "`title`: 5 is not of type 'string'" in result["content"]


@pytest.mark.parametrize("others", [[{"title": "Second"}], [{"title": 5}], ["{"]])
async def test_of_several_answers_the_first_that_fits_counts(
    redis: Redis, others: list[Any]
) -> None:
    async with Stage(redis) as stage:
        turn, end = await ended(stage, called({"title": 1}, GOOD, *others))
        assert end.state is TurnState.DONE
        assert json.loads(await stage.log_text(turn)) == GOOD
        assert len(stage.gateway.side_calls) == 1


async def test_of_several_answers_that_do_not_fit_one_is_given_back(redis: Redis) -> None:
    async with Stage(redis) as stage:
        turn, end = await ended(stage, called({"title": 1}, {"title": 2}), called(GOOD))
        assert end.state is TurnState.DONE
        assert json.loads(await stage.log_text(turn)) == GOOD
        told = stage.gateway.side_calls[1].body["messages"]
        [call], [result] = told[1]["content"], told[2]["content"]
        assert (call["input"], call["id"]) == ({"title": 2}, result["tool_use_id"])


async def test_a_call_of_another_tool_is_no_answer(redis: Redis) -> None:
    other = SSE_START + a_call(GOOD, id="toolu_1", name="other") + SSE_END
    async with Stage(redis) as stage:
        turn, end = await ended(stage, other, called(GOOD))
        assert end.state is TurnState.DONE
        assert len(stage.gateway.side_calls) == 2
        assert json.loads(await stage.log_text(turn)) == GOOD


async def test_json_in_words_is_taken_if_it_is_nothing_else(redis: Redis) -> None:
    async with Stage(redis) as stage:
        turn, end = await ended(stage, prose('```json\n{"title": "Weekend in Rome"}\n```'))
        assert end.state is TurnState.DONE
        assert json.loads(await stage.log_text(turn)) == GOOD


@pytest.mark.parametrize(
    "answer", [prose("A weekend in Rome."), called("{"), called([1]), prose("")]
)
async def test_a_model_that_never_complies_ends_the_turn_with_an_error(
    redis: Redis, answer: bytes
) -> None:
    async with Stage(redis) as stage:
        turn, end = await ended(stage, answer)
        assert end.error is not None
        assert end.error.code is ErrorCode.FORM_NOT_KEPT
        assert len(stage.gateway.side_calls) == TRIES
        assert await stage.log_text(turn) == ""
        assert end.usage.output_tokens == TRIES * USED.output_tokens


async def test_an_answer_that_was_cut_off_is_not_asked_for_again(redis: Redis) -> None:
    async with Stage(redis) as stage:
        turn, end = await ended(stage, called('{"title": "Week', stop="max_tokens"))
        assert (end.state, end.end_reason) == (TurnState.DONE, EndReason.LENGTH)
        assert await stage.log_text(turn) == ""
        assert len(stage.gateway.side_calls) == 1


async def test_an_input_without_end_is_not_kept(redis: Redis) -> None:
    async with Stage(redis) as stage:
        _, end = await ended(stage, called('{"title": "' + "x" * 2_000_000))
        assert end.error is not None
        assert end.error.code is ErrorCode.UPSTREAM_ERROR


async def test_an_object_of_any_shape(redis: Redis) -> None:
    async with Stage(redis) as stage:
        turn, end = await ended(stage, called({"anything": [1]}), form=AnswerForm())
        assert end.state is TurnState.DONE
        assert json.loads(await stage.log_text(turn)) == {"anything": [1]}


async def test_a_model_that_cannot_be_forced_is_asked(redis: Redis) -> None:
    def upstream(call: SideCall) -> UpstreamAnswer:
        if "tool_choice" in call.body:
            told = {"error": {"message": "Thinking may not be enabled when tool_choice forces it."}}
            return UpstreamAnswer(400, None, stream_of(json.dumps(told).encode()))
        return UpstreamAnswer(200, None, stream_of(called(GOOD)))

    async with Stage(redis) as stage:
        stage.gateway.upstream = upstream
        await stage.worker()
        turn = await stage.ask_side(C, "Title", turn_options=TurnOptions(answer_form=FORM))
        assert (await stage.ended(turn)).state is TurnState.DONE
        assert json.loads(await stage.log_text(turn)) == GOOD


async def test_what_was_heard_of_a_broken_answer_does_not_count(redis: Redis) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield SSE_START + sse_text('{"title": "Half')
        raise GatewayUnavailable

    answers = [broken(), stream_of(prose(json.dumps(GOOD)))]
    async with Stage(redis) as stage:
        stage.gateway.upstream = lambda call: UpstreamAnswer(200, None, answers.pop(0))
        await stage.worker()
        turn = await stage.ask_side(C, "Title", turn_options=TurnOptions(answer_form=FORM))
        assert (await stage.ended(turn)).state is TurnState.DONE
        assert json.loads(await stage.log_text(turn)) == GOOD
