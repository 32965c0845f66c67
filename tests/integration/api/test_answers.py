"""Turns through the API as the official client sees them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from infra.wire.errors import ErrorCode
from infra.wire.events import Notice, TextDelta, ThinkingDelta, ToolCall, ToolResult
from infra.wire.ids import TurnId, WorkerId
from infra.wire.states import TurnState
from infra.wire.turns import HistoryMessage, TextBlock
from tests.fakes.echo_worker import DONE, Gate, Pause, Script, failure, words
from tests.fakes.running_api import KEY, MODEL, InlineQueue, RunningApi, body, running_api, until
from tests.fakes.sse import data_of

PARAGRAPH = "the quick brown fox jumps over the lazy dog"


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def streamed(api: RunningApi, prompt: str, **more: Any) -> list[Any]:
    async with api.openai() as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=user(prompt), stream=True, **more
        )
        return [chunk async for chunk in stream]


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_streamed_answer_has_openais_form() -> None:
    async with running_api() as api:
        chunks = await streamed(api, PARAGRAPH, stream_options={"include_usage": True})
    assert text_of(chunks) == PARAGRAPH
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({(c.id, c.model, c.created, c.object) for c in chunks}) == 1
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.prompt_tokens == 10
    assert chunks[-1].usage.completion_tokens == 5
    assert all(c.usage is None for c in chunks[:-1])


async def test_accepted_turn_is_answered_whatever_went_wrong_with_its_hint(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def heard_but_broken(queue: InlineQueue, turn: TurnId, owner: WorkerId | None) -> None:
        queue.hints.put_nowait(turn)
        raise RuntimeError("the client of the store is beside itself")

    monkeypatch.setattr(InlineQueue, "enqueue", heard_but_broken)
    async with running_api() as api:
        assert text_of(await streamed(api, PARAGRAPH)) == PARAGRAPH
    assert "turn not announced" in caplog.text


async def test_stream_without_usage_ends_with_done() -> None:
    async with running_api() as api:
        answer = await api.chat("hi", stream=True)
    events = data_of(answer.text)
    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["choices"] for event in events[:-1])
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache, no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"]
    assert "content-encoding" not in answer.headers


async def test_whole_answer_has_openais_form() -> None:
    async with running_api() as api, api.openai() as client:
        answer = await client.chat.completions.create(model=MODEL, messages=user(PARAGRAPH))
    assert answer.choices[0].message.content == PARAGRAPH
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    assert set(answer.model_dump()["choices"][0]) >= {"logprobs", "message", "finish_reason"}


async def test_both_paths_answer() -> None:
    async with running_api() as api:
        answer = await api.http.post("/chat/completions", json=body("hi"))
    assert answer.json()["choices"][0]["message"]["content"] == "hi"


async def test_tools_and_thinking_are_reasoning_content() -> None:
    script: Script = {
        "go": [
            ThinkingDelta(text="hm"),
            ToolCall(id="1", name="Bash", summary="ls"),
            ToolResult(id="1", name="Bash", summary="ok"),
            TextDelta(text="done"),
        ]
    }
    async with running_api(script) as api:
        whole = (await api.chat("go")).json()["choices"][0]["message"]
        chunks = await streamed(api, "go")
    assert whole["content"] == "done"
    assert whole["reasoning_content"] == "hm\nBash: ls\nBash → ok\n"
    reasoning = "".join(
        getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks
    )
    assert reasoning == whole["reasoning_content"]
    assert all(c.choices[0].delta.tool_calls is None for c in chunks)


async def test_first_delta_leaves_while_the_agent_still_works() -> None:
    script: Script = {"go": [TextDelta(text="first"), Gate("rest"), TextDelta(text=" last")]}
    async with running_api(script) as api, api.openai() as client:
        stream = await client.chat.completions.create(model=MODEL, messages=user("go"), stream=True)
        seen = ""
        async for chunk in stream:
            seen += chunk.choices[0].delta.content or ""
            if seen == "first":
                api.worker.gates["rest"].set()
    assert seen == "first last"


async def test_named_conversation_is_one_conversation_of_its_caller() -> None:
    async with running_api() as api:
        headers = {"x-conversation-id": "thread-1"}
        first = await api.chat("a", headers=headers)
        await api.chat("b", headers=headers)
        await api.chat("c", headers=headers | {"authorization": "Bearer sk-ant-other-4711"})
        await api.chat("d")
        await api.chat("e", headers={"x-conversation-id": ""})
    keys = [request.conversation for request in api.worker.requests]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    assert first.headers["x-conversation-id"] == "thread-1"


async def test_history_and_system_text_reach_the_worker() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    async with running_api() as api:
        await api.http.post("/v1/chat/completions", json=body("") | {"messages": messages})
    (request,) = api.worker.requests
    assert request.system_prompt == "be brief"
    assert request.history == (
        HistoryMessage(role="user", content=(TextBlock(text="a"),)),
        HistoryMessage(role="assistant", content=(TextBlock(text="b"),)),
    )
    assert request.prompt == (TextBlock(text="c"),)


async def test_alias_is_resolved_and_echoed() -> None:
    async with running_api() as api:
        answer = await api.chat("hi", model="claude-sonnet-4.5")
    assert answer.json()["model"] == "claude-sonnet-4.5"
    assert api.worker.requests[0].model == MODEL


async def test_key_is_nowhere_readable_in_redis() -> None:
    async with running_api({"wait": [Gate("go")]}) as api, asyncio.TaskGroup() as group:
        group.create_task(api.chat("wait"))
        await until(lambda: api.worker.requests)
        redis: Any = api.store.redis  # Its stubs mix the two kinds of client.
        held = b""
        for key in await redis.keys("*"):
            match await redis.type(key):
                case b"hash":
                    held += repr(await redis.hgetall(key)).encode()
                case b"string":
                    held += await redis.get(key)
                case b"stream":
                    held += repr(await redis.xrange(key)).encode()
        api.worker.gates["go"].set()
    assert b"key_sealed" in held
    assert KEY.encode() not in held


async def test_lost_live_frames_are_made_up_from_the_log() -> None:
    text = " ".join(f"w{n}" for n in range(200))
    async with running_api(is_heard_live=lambda n: n % 3 == 0, log_every=7) as api:
        assert text_of(await streamed(api, text)) == text


async def test_turn_without_any_live_frame_still_streams() -> None:
    async with running_api(is_heard_live=lambda n: False) as api:
        assert text_of(await streamed(api, PARAGRAPH)) == PARAGRAPH


async def test_many_turns_at_once_do_not_cross() -> None:
    async with running_api() as api:
        answers = await asyncio.gather(*(api.chat(f"only {n}", stream=False) for n in range(30)))
    said = [a.json()["choices"][0]["message"]["content"] for a in answers]
    assert said == [f"only {n}" for n in range(30)]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (ErrorCode.INVALID_KEY, 401, openai.AuthenticationError),
        (ErrorCode.RATE_LIMITED, 429, openai.RateLimitError),
        (ErrorCode.CONTEXT_TOO_LONG, 400, openai.BadRequestError),
        (ErrorCode.UPSTREAM_ERROR, 502, openai.InternalServerError),
    ],
)
async def test_early_failure_has_its_honest_status(
    code: ErrorCode, status: int, kind: type[openai.APIStatusError], stream: bool
) -> None:
    script: Script = {"go": [Notice(text="trying again"), failure(code, "no such luck")]}
    async with running_api(script) as api, api.openai() as client:
        with pytest.raises(kind) as failed:
            await client.chat.completions.create(model=MODEL, messages=user("go"), stream=stream)
    assert failed.value.status_code == status
    assert failed.value.code == code.value
    assert "no such luck" in str(failed.value)
    assert failed.value.request_id


async def test_failure_in_the_stream_is_one_error_event_and_the_end() -> None:
    script: Script = {
        "go": [*words("so far"), failure(ErrorCode.CONTAINER_LOST, "the agent is gone")]
    }
    async with running_api(script) as api:
        answer = await api.chat("go", stream=True)
        with pytest.raises(openai.APIError, match="the agent is gone"):
            await streamed(api, "go")
    assert answer.status_code == 200
    assert '"content":" far"' in answer.text
    assert json.loads(data_of(answer.text)[-1])["error"] == {
        "message": "the agent is gone",
        "type": "api_error",
        "param": None,
        "code": "container_lost",
    }
    assert "[DONE]" not in answer.text


async def test_failed_turn_that_may_have_had_effects_is_not_worth_a_retry() -> None:
    script: Script = {
        "go": [ToolCall(id="1", name="Bash", summary="x"), failure(ErrorCode.OVERLOADED)]
    }
    async with running_api(script) as api:
        answer = await api.chat("go")
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "false"


async def test_repeat_of_a_turn_under_way_joins_it() -> None:
    script: Script = {"go": [TextDelta(text="once"), Gate("end")]}
    headers = {"x-conversation-id": "c", "x-message-id": "m-1"}
    async with running_api(script) as api, asyncio.TaskGroup() as group:
        first = group.create_task(api.chat("go", headers=headers))
        await until(lambda: api.worker.requests)
        second = group.create_task(api.chat("go", headers=headers))
        await until(lambda: api.deps.drain.open_count == 2)
        api.worker.gates["end"].set()
        a, b = await first, await second
    assert a.json()["id"] == b.json()["id"]
    assert len(api.worker.requests) == 1


async def test_regenerate_with_the_same_message_id_is_a_new_turn() -> None:
    headers = {"x-conversation-id": "c", "x-message-id": "m-1"}
    async with running_api() as api:
        first = await api.chat("hi", headers=headers)
        second = await api.chat("hi", headers=headers)
    assert first.json()["id"] != second.json()["id"]


async def test_idempotency_key_answers_a_finished_turn_again() -> None:
    headers = {"x-conversation-id": "c", "idempotency-key": "i-1"}
    async with running_api() as api:
        first = await api.chat("hi", headers=headers)
        second = await api.chat("hi", headers=headers)
        other = await api.chat("ho", headers=headers)
    assert first.json()["id"] == second.json()["id"]
    assert first.json()["choices"] == second.json()["choices"]
    assert other.json()["id"] != first.json()["id"]
    assert len(api.worker.requests) == 2


async def test_turn_nobody_starts_ends_with_503() -> None:
    async with running_api(has_worker=False, settings={"queue_timeout_s": 0.5}) as api:
        answer = await api.chat("hi", stream=True)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "queue_timeout"
    assert answer.headers["retry-after"]


async def test_full_queue_of_a_conversation_is_429() -> None:
    async with running_api({"go": [Gate("end")]}, settings={"turns_waiting_max": 1}) as api:
        headers = {"x-conversation-id": "c"}
        async with asyncio.TaskGroup() as group:
            # Each its own body: the same one again would join the turn that runs.
            group.create_task(api.chat("go", headers=headers, seed=1))
            await until(lambda: api.worker.requests)
            group.create_task(api.chat("go", headers=headers, seed=2))
            await until(lambda: api.deps.drain.open_count == 2)
            refused = await api.chat("go", headers=headers, seed=3)
            api.worker.gates["end"].set()
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("setting", "bound", "status", "code"),
    [
        ("queue_max", 1, 503, "cluster_full"),
        ("tenant_bytes_max", 9000, 429, "tenant_limit_exceeded"),
        ("tenant_turns_max", 1, 429, "tenant_limit_exceeded"),
        ("tenant_queue_max", 1, 429, "tenant_limit_exceeded"),
    ],
)
async def test_a_bound_that_is_reached_is_an_honest_refusal(
    setting: str, bound: int, status: int, code: str
) -> None:
    async with (
        running_api(has_worker=False, settings={setting: bound}) as api,
        asyncio.timeout(20),
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(api.chat("first"))
        while not await api.store.room.waiting(limit=1):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.005)
        refused = await api.chat("second")
        first.cancel()
    assert refused.status_code == status
    assert refused.json()["error"]["code"] == code
    assert 5 <= int(refused.headers["retry-after"]) <= 30


async def test_turns_of_a_conversation_run_one_after_the_other() -> None:
    headers = {"x-conversation-id": "c"}
    async with running_api({"slow": [Gate("end"), TextDelta(text="slow")]}) as api:
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(api.chat("slow", headers=headers))
            await until(lambda: api.worker.requests)
            quick = group.create_task(api.chat("quick", headers=headers))
            await until(lambda: api.deps.drain.open_count == 2)
            assert len(api.worker.requests) == 1
            api.worker.gates["end"].set()
        assert slow.result().json()["choices"][0]["message"]["content"] == "slow"
        assert quick.result().json()["choices"][0]["message"]["content"] == "quick"
        states = [api.worker.ended.get_nowait()[1] for _ in range(2)]
    assert states == [TurnState.DONE, TurnState.DONE]
    assert DONE.state is TurnState.DONE


async def test_long_answer_that_is_not_streamed_sends_blanks_where_that_is_wanted() -> None:
    """Balancers cut a connection on which nothing is said for a minute."""
    script: Script = {"go": [Pause(0.3), *words("at last")]}
    async with running_api(script, settings={"blanks_every_s": 0.05}) as api:
        async with api.openai() as client:
            read = await client.chat.completions.create(
                model="claude-sonnet-4.5", messages=[{"role": "user", "content": "go"}]
            )
        raw = await api.chat("go")
    assert read.choices[0].message.content == "at last"
    assert raw.headers["content-type"] == "application/json"
    assert raw.text.startswith("  ")
    assert raw.json()["choices"][0]["message"]["content"] == "at last"


async def test_turn_that_fails_behind_blanks_has_its_error_there() -> None:
    script: Script = {"go": [Pause(0.3), failure(ErrorCode.OVERLOADED)]}
    async with running_api(script, settings={"blanks_every_s": 0.05}) as api:
        late = await api.chat("go")
    assert late.status_code == 200
    assert late.json()["error"]["code"] == "upstream_overloaded"
