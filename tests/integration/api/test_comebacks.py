"""Turns that were asked for earlier: fetched, followed, cancelled, from any replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
import requests
from openai.types.chat import ChatCompletionChunk

from api.chat.answer.vocabulary import completion_id
from infra.store.access.limits import SubmitLimits
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.turns.log import TurnLog
from infra.store.turns.turns import NewTurn, Submitted, TurnRecord, TurnStore
from infra.wire.errors import ErrorCode, StoreUnavailable
from infra.wire.events import TextDelta, ThinkingDelta, ToolCall
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.echo_worker import Gate, Pause, Script, Step, failure, words
from tests.fakes.fake_redis import fake_redis
from tests.fakes.running_api import KEY, RunningApi, body, real_store, running_api, until
from tests.fakes.sse import Block, blocks_of, parts_of

STAYS = {"x-on-disconnect": "continue"}
NUMBERED = {"x-event-ids": "true"}
STRANGER = {"authorization": "Bearer sk-ant-somebody-else"}
TOOLS: list[Step] = [
    ThinkingDelta(text="hm"),
    TextDelta(text="I look"),
    ToolCall(id="1", name="Bash", summary="ls"),
    TextDelta(text="three"),
    TextDelta(text=" files"),
]
HELD: Script = {"hold": [TextDelta(text="so far"), Gate("rest"), TextDelta(text=" and on")]}


def path(id: str, more: str = "") -> str:
    return f"/v1/chat/completions/{id}{more}"


async def begun(api: RunningApi, prompt: str, **more: Any) -> str:
    """The id of a turn that has begun and whose client is gone."""
    request = api.http.build_request(
        "POST", path("").rstrip("/"), json=body(prompt, stream=True, **more), headers=STAYS
    )
    answer = await api.http.send(request, stream=True)
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            break
    await answer.aclose()
    await until(lambda: api.deps.drain.open_count == 0)
    return ChatCompletionChunk.model_validate_json(line[6:]).id


def texts(blocks: list[Block]) -> str:
    chunks = [ChatCompletionChunk.model_validate_json(b.data) for b in blocks if b.data[0] == "{"]
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


@asynccontextmanager
async def two_replicas(
    script: Script, *, changed: Callable[[Store], TurnStore] | None = None
) -> AsyncIterator[tuple[RunningApi, RunningApi]]:
    async with running_api(script) as here:
        store = replace(here.store, turns=changed(here.store)) if changed else here.store
        async with running_api(store=store, has_worker=False) as far:
            yield here, far


async def test_finished_completion_is_fetched_by_its_id() -> None:
    async with running_api() as api, api.openai() as client:
        made = await api.chat("hello there")
        found = await client.chat.completions.retrieve(made.json()["id"])
        plain = await api.http.get(path(made.json()["id"]).removeprefix("/v1"))
    assert found.choices[0].message.content == "hello there"
    assert found.choices[0].finish_reason == "stop"
    assert found.id == made.json()["id"]
    assert found.usage is not None
    assert found.usage.total_tokens == 15
    assert plain.json() == made.json() | {"created": plain.json()["created"]}


async def test_completion_under_way_is_409_until_it_ends() -> None:
    async with running_api(HELD) as api:
        turn = await begun(api, "hold")
        running = await api.http.get(path(turn))
        api.worker.gates["rest"].set()
        async with asyncio.timeout(10):
            await api.worker.ended.get()
        ended = await api.http.get(path(turn))
    assert running.status_code == 409
    assert running.json()["error"]["code"] == "turn_running"
    assert running.headers["retry-after"]
    assert "x-should-retry" not in running.headers
    assert ended.json()["choices"][0]["message"]["content"] == "so far and on"


async def test_failed_completion_fails_again_with_its_status() -> None:
    script: Script = {"go": [failure(ErrorCode.RATE_LIMITED, "slow down")]}
    async with running_api(script) as api:
        turn = await begun_id(api, "go")
        again = await api.http.get(path(turn))
        streamed = await api.http.get(path(turn), params={"stream": "true"})
    assert [again.status_code, streamed.status_code] == [429, 429]
    assert again.json()["error"]["message"] == "slow down"


async def begun_id(api: RunningApi, prompt: str) -> str:
    await api.chat(prompt)
    return api.worker.requests[-1].turn


@pytest.mark.parametrize("id", ["chatcmpl-" + "0" * 32, "nonsense", "x:request"])
async def test_unknown_completion_is_404(id: str) -> None:
    async with running_api() as api:
        answers = [
            await api.http.get(path(id)),
            await api.http.get(path(id), params={"stream": "true"}),
            await api.http.post(path(id, "/cancel")),
        ]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert answers[0].json()["error"]["code"] == "turn_not_found"


async def test_another_tenants_completion_is_404() -> None:
    async with running_api(HELD) as api:
        turn = await begun(api, "hold")
        answers = [
            await api.http.get(path(turn), headers=STRANGER),
            await api.http.get(path(turn), params={"stream": "true"}, headers=STRANGER),
            await api.http.post(path(turn, "/cancel"), headers=STRANGER),
        ]
        record = await api.store.turns.get(api.worker.requests[0].turn)
        api.worker.gates["rest"].set()
    assert [answer.status_code for answer in answers] == [404] * 3
    assert record is not None
    assert record.cancel is None


async def test_stream_is_replayed_in_full_and_from_any_event() -> None:
    script: Script = {"go": TOOLS}
    for display in ("reasoning", "text"):
        async with running_api(script, settings={"tool_display": display}) as api:
            asked = await api.chat("go", stream=True, headers=NUMBERED)
            first = blocks_of(asked.content)
            turn = api.worker.requests[-1].turn
            whole = await api.http.get(path(turn), params={"stream": "true"})
            assert [b.id for b in blocks_of(whole.content)] == [b.id for b in first]
            assert texts(blocks_of(whole.content)) == texts(first)
            for seen in {block.id for block in first}:
                rest = await api.http.get(
                    path(turn), params={"stream": "true", "starting_after": str(seen)}
                )
                role, *blocks = blocks_of(rest.content)
                assert role.id == min(seen or 0, 6)
                before = [b for b in first[1:] if b.id is not None and b.id <= (seen or 0)]
                shown = [b for b in before if b.id != 7]
                assert texts(shown) + texts(blocks) == texts(first)
                assert blocks[-1].data == "[DONE]"
                assert blocks[-1].id == 7


async def test_last_event_id_counts_more_than_the_url() -> None:
    async with running_api() as api:
        turn = await begun_id(api, "one two three")
        rest = await api.http.get(
            path(turn),
            params={"stream": "true", "starting_after": "1"},
            headers={"last-event-id": "3"},
        )
        odd = await api.http.get(
            path(turn), params={"stream": "true"}, headers={"last-event-id": "x"}
        )
        negative = await api.http.get(path(turn), params={"stream": "true", "starting_after": "-1"})
    assert texts(blocks_of(rest.content)) == " three"
    assert [odd.status_code, negative.status_code] == [400, 400]


async def test_usage_is_replayed_when_asked_for() -> None:
    async with running_api() as api:
        turn = await begun_id(api, "hi")
        asked = await api.http.get(path(turn), params={"stream": "true", "include_usage": "true"})
        plain = await api.http.get(path(turn), params={"stream": "true"})
    assert b'"total_tokens":15' in asked.content
    assert b"usage" not in plain.content


@pytest.mark.parametrize("is_far", [False, True])
async def test_stream_is_followed_live_from_any_replica(is_far: bool) -> None:
    """Each delta comes while the turn waits for what the follower does with the one before."""
    script: Script = {
        "go": [
            TextDelta(text="a"), Gate("a"), TextDelta(text="b"), Gate("b"), TextDelta(text="c"),
        ]
    }  # fmt: skip
    async with two_replicas(script) as (here, far):
        reader = far if is_far else here
        turn = await begun(here, "go")
        async with (
            asyncio.timeout(30),
            reader.http.stream("GET", path(turn), params={"stream": "true"}) as answer,
        ):
            lines = []
            async for line in answer.aiter_lines():
                lines.append(line)
                for word in ("a", "b"):
                    if f'"content":"{word}"' in line:
                        here.worker.gates[word].set()
    assert any('"content":"c"' in line for line in lines)
    assert "data: [DONE]" in lines


async def test_follower_that_leaves_stops_nothing() -> None:
    async with running_api(HELD) as api:
        turn = await begun(api, "hold")
        async with api.http.stream("GET", path(turn), params={"stream": "true"}) as answer:
            async for line in answer.aiter_lines():
                if "so far" in line:
                    break
        await until(lambda: api.deps.drain.open_count == 0)
        await api.deps.deferred.settled()
        api.worker.gates["rest"].set()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.DONE


async def test_follower_does_not_keep_a_turn_alive_that_its_owner_left() -> None:
    async with running_api(HELD) as api, asyncio.TaskGroup() as group:
        chat = body("hold", stream=True)
        async with (
            api.http.stream("POST", "/v1/chat/completions", json=chat) as owner,
            # Held: when the lines go, so does their connection.
            aclosing(cast("AsyncGenerator[str]", owner.aiter_lines())) as lines,
        ):
            async for line in lines:
                if "so far" in line:
                    break
            turn = api.worker.requests[0].turn
            follower = group.create_task(api.http.get(path(turn), params={"stream": "true"}))
            await until(lambda: api.deps.drain.open_count == 2)
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.CANCELLED
            assert "turn_cancelled" in (await follower).text


@pytest.mark.parametrize("is_far", [False, True])
async def test_cancel_ends_the_turn_for_all_who_read_it(is_far: bool) -> None:
    async with two_replicas(HELD) as (here, far), asyncio.TaskGroup() as group:
        reading = group.create_task(here.chat("hold", stream=True))
        await until(lambda: here.worker.requests)
        turn = here.worker.requests[0].turn
        answer = await (far if is_far else here).http.post(path(turn, "/cancel"))
        async with asyncio.timeout(10):
            assert "turn_cancelled" in (await reading).text
        again = await here.http.post(path(turn, "/cancel"))
        fetched = await far.http.get(path(turn))
    assert answer.status_code == 200
    assert answer.json()["id"] == completion_id(turn)
    assert answer.json()["state"] in ("running", "claimed")
    assert again.json()["state"] == "cancelled"
    assert fetched.status_code == 409
    assert fetched.json()["error"]["code"] == "turn_cancelled"


async def test_coming_back_needs_a_key() -> None:
    async with running_api() as api:
        turn = await begun_id(api, "hi")
        answer = await api.http.get(path(turn), headers={"authorization": ""})
    assert answer.status_code == 401


@pytest.mark.parametrize("headers", [{}, NUMBERED])
async def test_official_client_reads_ids_beside_pings_and_errors(headers: dict[str, str]) -> None:
    """openai-python keeps the last id it saw: a comment must not look like an event to it."""
    script: Script = {
        "go": [TextDelta(text="a"), Pause(0.3), TextDelta(text="b"), Pause(0.3), *words("c d")]
    }
    settings = {"ping_interval_s": 0.05, "commit_after_s": 0}
    async with running_api(script, settings=settings) as api, api.openai() as client:
        stream = await client.chat.completions.create(
            model="claude-sonnet-4.5",
            messages=[{"role": "user", "content": "go"}],
            stream=True,
            extra_headers=headers,
        )
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "abc d"
        assert KEY not in str(api.worker.requests)


async def test_simple_reader_gets_each_word_over_pings() -> None:
    """Dify's splits at blank lines and strips `data:`: it showed nothing of our streams."""
    script: Script = {
        "go": [TextDelta(text="a"), Pause(0.2), TextDelta(text="b"), Pause(0.2), *words("c d")]
    }
    settings = {"ping_interval_s": 0.05, "commit_after_s": 0}
    async with running_api(script, settings=settings) as api:
        answer = await api.chat("go", stream=True)
        odd = await api.chat("go", stream=True, headers={"x-event-ids": "maybe"})
    *chunks, done = parts_of(answer.content)
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "abc d"
    assert (done, b": ping\n\n" in answer.content) == ("[DONE]", True)
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "X-Event-IDs")


async def test_dify_shows_each_word_of_a_stream() -> None:
    """By its reader's own loop (dify_plugin 0.7.4, `_handle_generate_stream_response`): the package
    itself wants a `requests` that is too old to stand beside what is tested here."""
    script: Script = {
        "go": [TextDelta(text="a"), Pause(0.3), TextDelta(text="b"), Pause(0.3), *words("c d")]
    }
    settings = {"ping_interval_s": 0.05, "commit_after_s": 0}
    async with running_api(script, settings=settings) as api, asyncio.timeout(60):
        shown = await asyncio.to_thread(read_as_dify, f"{api.url}/v1/chat/completions")
    assert "".join(shown) == "abc d"


def read_as_dify(url: str) -> list[str]:
    headers = {"authorization": f"Bearer {KEY}"}
    shown = []
    with requests.post(
        url, json=body("go", stream=True), headers=headers, stream=True, timeout=30
    ) as answer:
        for chunk in answer.iter_lines(decode_unicode=True, delimiter="\n\n"):
            if not (block := chunk.strip()) or block.startswith(":"):
                continue
            data = block.removeprefix("data:").lstrip()
            if data == "[DONE]":
                continue
            if choices := json.loads(data)["choices"]:
                shown.append(choices[0]["delta"].get("content", ""))
    return shown


async def test_broken_stream_goes_on_behind_what_was_seen() -> None:
    """As docs/reference/clients.md says: by the id in each chunk, with or without numbers."""
    async with running_api(HELD) as api:
        for headers, seen in ((STAYS, ""), (STAYS | NUMBERED, "so far")):
            turn, last_id = await broken_off(api, headers)
            api.worker.gates["rest"].set()
            more = {"last-event-id": last_id} if last_id else {}
            rest = await api.http.get(path(turn), params={"stream": "true"}, headers=more)
            assert seen + texts(blocks_of(rest.content)) == "so far and on"
            api.worker.gates["rest"].clear()


async def broken_off(api: RunningApi, headers: dict[str, str]) -> tuple[str, str | None]:
    """A stream whose client is gone after its first words: its id, and the last number it saw."""
    asked = body("hold", stream=True)
    url, last_id = "/v1/chat/completions", None
    async with api.http.stream("POST", url, json=asked, headers=headers) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                last_id = line[4:]
            if "so far" in line:
                break
    await until(lambda: api.deps.drain.open_count == 0)
    return ChatCompletionChunk.model_validate_json(line[6:]).id, last_id


async def test_alias_is_answered_by_its_name_again() -> None:
    async with running_api() as api:
        made = await api.chat("hi", model="claude-sonnet-4.5")
        turn = made.json()["id"]
        found = await api.http.get(path(turn))
        streamed = await api.http.get(path(turn), params={"stream": "true"})
        asked = api.worker.requests[0].model
    assert asked == "claude-sonnet-4-5-20250929"
    assert made.json()["model"] == found.json()["model"] == "claude-sonnet-4.5"
    assert b'"model":"claude-sonnet-4.5"' in streamed.content


async def test_log_whose_beginning_is_gone_is_refused_before_anything_is_sent() -> None:
    again = {"x-conversation-id": "c", "idempotency-key": "k"}
    async with fake_redis() as redis:
        store = store_on(redis, Keys("test"))
        short = replace(store, log=TurnLog(redis, Keys("test"), events_max=100))
        async with running_api({"go": words("w " * 500)}, store=short) as api:
            turn = (await api.chat("go", headers=again)).json()["id"]
            whole = await api.http.get(path(turn))
            streamed = await api.http.get(path(turn), params={"stream": "true"})
            repeated = await api.chat("go", headers=again)
            first = int(whole.json()["error"]["message"].split("starting_after=")[1].strip("."))
            rest = await api.http.get(
                path(turn), params={"stream": "true", "starting_after": str(first)}
            )
    for refused in (whole, streamed, repeated):
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "turn_log_trimmed"
        assert refused.headers["x-should-retry"] == "false"
    assert blocks_of(rest.content)[-1].data == "[DONE]"
    assert blocks_of(rest.content)[1].id == first + 1


async def repeated_at_two_replicas(
    here: RunningApi, far: RunningApi, group: asyncio.TaskGroup
) -> tuple[asyncio.Task[httpx.Response], asyncio.Task[httpx.Response]]:
    """The same turn asked for at both, and being read by both."""
    again = {"x-conversation-id": "c", "x-message-id": "m"}
    first = group.create_task(here.chat("hold", stream=True, headers=again))
    await until(lambda: here.worker.requests)
    second = group.create_task(far.chat("hold", stream=True, headers=again))
    await until(lambda: far.deps.drain.open_count == 1)
    return first, second


@pytest.mark.parametrize("is_far", [False, True], ids=["first", "second"])
async def test_repeat_at_another_replica_outlives_a_hang_up(is_far: bool) -> None:
    """Each replica counted its own clients, and the first to lose its one stopped the turn."""
    async with two_replicas(HELD) as (here, far), asyncio.TaskGroup() as group:
        first, second = await repeated_at_two_replicas(here, far, group)
        leaver, stayer = (second, first) if is_far else (first, second)
        left = far if is_far else here
        leaver.cancel()
        await until(lambda: left.deps.drain.open_count == 0)
        await left.deps.deferred.settled()
        here.worker.gates["rest"].set()
        async with asyncio.timeout(20):
            assert "and on" in (await stayer).text
    assert len(here.worker.requests) == 1


class LosingTurns(TurnStore):
    """Redis goes away at a submit: before it is done, or before that is told."""

    is_written = False

    async def submit(self, new: NewTurn, *, limits: SubmitLimits, retention_s: float) -> Submitted:
        if self.is_written:
            await super().submit(new, limits=limits, retention_s=retention_s)
        raise StoreUnavailable("gone")


def trimming(store: Store) -> Store:
    return replace(store, log=TurnLog(store.redis, Keys("test"), events_max=100))


def losing_before(store: Store) -> Store:
    return replace(store, turns=LosingTurns(store.redis, Keys("test")))


def losing_after(store: Store) -> Store:
    turns = LosingTurns(store.redis, Keys("test"))
    turns.is_written = True
    return replace(store, turns=turns)


@pytest.mark.parametrize(
    ("changed", "status"), [(trimming, 409), (losing_before, 503), (losing_after, 503)]
)
async def test_repeat_that_fails_does_not_stay_among_its_turns_readers(
    changed: Callable[[Store], Store], status: int
) -> None:
    """It had written itself down, and never left: the turn then outlived everybody's hang-up."""
    again = {"x-conversation-id": "c", "idempotency-key": "k"}
    script: Script = {"go": [*words("w " * 200), Gate("never")]}
    async with fake_redis() as redis, AsyncExitStack() as opened:
        store = trimming(store_on(redis, Keys("test")))
        here = await opened.enter_async_context(running_api(script, store=store))
        far = await opened.enter_async_context(running_api(store=changed(store), has_worker=False))
        group = await opened.enter_async_context(asyncio.TaskGroup())
        first = group.create_task(here.chat("go", stream=True, headers=again))
        await until(lambda: here.worker.requests)
        turn = here.worker.requests[0].turn
        await until_logged(store, turn, 200)

        refused = await far.chat("go", stream=True, headers=again)

        assert refused.status_code == status
        await far.deps.deferred.settled()
        record = await store.turns.get(turn)
        assert record is not None
        assert record.cancel is None, "its first client reads on"
        first.cancel()
        async with asyncio.timeout(20):
            assert (await here.worker.ended.get())[1] is TurnState.CANCELLED


async def until_logged(store: Store, turn: TurnId, events: int) -> None:
    async with asyncio.timeout(20):
        while True:
            record = await store.turns.get(turn)
            if record is not None and record.seq >= events:
                return
            await asyncio.sleep(0.01)


async def test_turn_ends_with_the_last_hang_up_at_any_replica() -> None:
    async with two_replicas(HELD) as (here, far), asyncio.TaskGroup() as group:
        for leaver, left in zip(
            await repeated_at_two_replicas(here, far, group), (here, far), strict=True
        ):
            leaver.cancel()
            await until(lambda left=left: left.deps.drain.open_count == 0)  # type: ignore[misc]
            await left.deps.deferred.settled()
        async with asyncio.timeout(10):
            assert (await here.worker.ended.get())[1] is TurnState.CANCELLED
        assert await here.store.redis.keys("*:readers") == []


async def test_request_whose_submit_was_lost_takes_along_the_turn_it_made() -> None:
    """Nobody waits for it: its client was told 503, and asks again."""
    async with fake_redis() as redis:
        store = store_on(redis, Keys("test"))
        async with running_api(store=losing_after(store), has_worker=False) as api:
            assert (await api.chat("go")).status_code == 503
            await api.deps.deferred.settled()
        (turn,) = [k for k in await redis.keys("test:turn:*") if k.count(b":") == 2]
        record = await store.turns.get(TurnId(turn.decode().removeprefix("test:turn:")))
        assert record is not None
        assert record.state is TurnState.CANCELLED


class LateTurns(TurnStore):
    """Looks at a turn it has joined only when the test says so."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.redis, store.keys)
        self.has_joined, self.go_on = asyncio.Event(), asyncio.Event()

    async def get(self, turn: TurnId) -> TurnRecord | None:
        self.has_joined.set()
        await self.go_on.wait()
        return await super().get(turn)


async def test_repeat_keeps_the_turn_whose_first_client_hangs_up_meanwhile() -> None:
    """It got 409 `turn_cancelled`, which LangChain never tries again."""
    again = {"x-conversation-id": "c", "x-message-id": "m"}
    async with two_replicas(HELD, changed=LateTurns) as (here, far), asyncio.TaskGroup() as group:
        late = far.store.turns
        assert isinstance(late, LateTurns)
        first = group.create_task(here.chat("hold", stream=True, headers=again))
        await until(lambda: here.worker.requests)
        second = group.create_task(far.chat("hold", stream=True, headers=again))
        async with asyncio.timeout(20):
            await late.has_joined.wait()
        first.cancel()
        await until(lambda: here.deps.drain.open_count == 0)
        await here.deps.deferred.settled()
        late.go_on.set()
        here.worker.gates["rest"].set()
        async with asyncio.timeout(20):
            assert "and on" in (await second).text
    assert len(here.worker.requests) == 1


@pytest.mark.parametrize("name", ["c", None])
async def test_sdk_gets_the_turn_that_its_first_try_asked_for(
    name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It waited no longer, or a balancer cut its answer: it tries again by itself."""
    headers = {"x-conversation-id": name} if name else {}
    caplog.set_level("INFO")
    async with (
        running_api(HELD) as api,
        api.openai(max_retries=1, default_headers=headers, timeout=0.7) as client,
        asyncio.TaskGroup() as group,
    ):
        asking = group.create_task(
            client.chat.completions.create(
                model="claude-sonnet-4.5", messages=[{"role": "user", "content": "hold"}]
            )
        )
        await until(lambda: "repeat joins its turn" in caplog.messages)
        api.worker.gates["rest"].set()
        answer = await asking
    assert answer.choices[0].message.content == "so far and on"
    assert len(api.worker.requests) == 1


async def test_turn_of_an_sdk_that_does_not_come_back_ends_after_its_grace() -> None:
    headers = {"x-stainless-retry-count": "0"}
    async with (
        running_api(HELD, settings={"retry_grace_s": 0.2}) as api,
        asyncio.TaskGroup() as group,
    ):
        asking = group.create_task(api.chat("hold", headers=headers))
        await until(lambda: api.worker.requests)
        asking.cancel()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.CANCELLED


async def test_langchains_retry_gets_the_turn_that_was_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It counts its tries itself, so the SDK inside says `0` each time; and it names nothing."""
    caplog.set_level("INFO")
    headers = {"x-stainless-retry-count": "0"}
    async with running_api(HELD) as api, asyncio.TaskGroup() as group:
        cut_off = group.create_task(api.chat("hold", headers=headers))
        await until(lambda: api.worker.requests)
        beside = group.create_task(api.chat("hold", headers=headers))
        await until(lambda: len(api.worker.requests) == 2)
        beside.cancel()
        await until(lambda: api.deps.drain.open_count == 1)
        await api.deps.deferred.settled()
        retry = group.create_task(api.chat("hold", headers=headers))
        await until(lambda: "repeat joins its turn" in caplog.messages)
        api.worker.gates["rest"].set()
        assert (await retry).json()["choices"][0]["message"]["content"] == "so far and on"
        await cut_off
    assert len(api.worker.requests) == 2, "and who says the same at once has a turn of their own"


@pytest.mark.redis
async def test_replica_that_died_keeps_no_turn_alive() -> None:
    """Whether it lives is told by its subscription, of which fakeredis never loses one."""
    async with (
        real_store() as store,
        running_api(HELD, store=store) as here,
        asyncio.TaskGroup() as group,
    ):
        async with running_api(store=here.store, has_worker=False) as far:
            first, second = await repeated_at_two_replicas(here, far, group)
            second.cancel()
            # It dies before it can say that its client has left.
            far.deps.deferred.add = lambda *_: None  # type: ignore[method-assign]
        first.cancel()
        async with asyncio.timeout(10):
            assert (await here.worker.ended.get())[1] is TurnState.CANCELLED
