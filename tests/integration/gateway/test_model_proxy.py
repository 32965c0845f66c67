"""What passes between an agent and the model, and what does not."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import aiohttp
import pytest
from yarl import URL

from infra.scripted_model.journal import Entry
from infra.wire.events import Usage
from infra.wire.ids import Fence, TurnId
from tests.fakes.manual_clock import ManualClock
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import (
    CONVERSATION,
    KEY,
    PATIENCE_S,
    Host,
    HostMaker,
    agent_at,
    asking,
)
from worker.gateway.main import Outside
from worker.gateway.model.proxy import ModelLimits
from worker.gateway.model.upstream import UpstreamTimeouts


async def test_the_callers_key_replaces_everything_the_agent_sends(
    host: Host, model: RunningModel
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    sent = {
        "x-api-key": "sk-ant-of-the-attacker",
        "authorization": "Bearer stolen",
        "cookie": "session=1",
        "proxy-authorization": "Basic eA==",
        "x-auth-token": "t",
        "x-forwarded-for": "10.0.0.1",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "effort-2025-11-24",
    }
    async with (
        agent_at(folder) as agent,
        agent.post(
            "/v1/messages?beta=true", json=asking("key", stream=False), headers=sent
        ) as answer,
    ):
        said = (await answer.json())["content"][0]["text"]
    assert said == f"x-api-key={KEY} auth=None"
    arrived = model.journal.entries[-1]
    assert arrived.query == "beta=true"
    assert arrived.headers["anthropic-beta"] == "effort-2025-11-24"
    assert arrived.headers["host"] in model.url
    assert not {"cookie", "proxy-authorization", "x-auth-token", "x-forwarded-for"} & set(
        arrived.headers
    )
    assert arrived.headers["content-length"]
    assert "transfer-encoding" not in arrived.headers


async def test_no_model_call_passes_before_between_or_after_turns(
    make_host: HostMaker, model: RunningModel
) -> None:
    host = make_host(upstream_url=model.url, model_limits=ModelLimits(first_turn_s=0.0))
    async with host.gateway():
        folder = await host.open_session()
        async with agent_at(folder) as agent:
            for opened in (False, True, False):
                if opened:
                    await host.open_turn()
                async with agent.post("/v1/messages", json=asking("echo hi")) as answer:
                    body = await answer.read()
                    assert answer.status == (200 if opened else 403)
                if not opened:
                    assert json.loads(body)["error"]["type"] == "permission_error"
                    assert answer.headers["x-should-retry"] == "false"
                await host.close_turn()
    assert len(model.journal.entries) == 1


async def test_the_first_call_waits_for_the_turn_that_is_being_opened(host: Host) -> None:
    folder = await host.open_session()
    async with agent_at(folder) as agent, asyncio.TaskGroup() as group:
        call = group.create_task(_text(agent, "echo patience"))
        await host.open_turn()
        assert await call == "patience"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("POST", "/v1/complete"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/messages/../models"),
        ("POST", "/v1/messages?beta=true&x=1"),
        ("POST", "/v1/%6dessages"),
        ("GET", "/v1/messages"),
        ("DELETE", "/v1/files/1"),
    ],
)
async def test_other_paths_are_refused(
    host: Host, model: RunningModel, method: str, path: str
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    connector = aiohttp.UnixConnector(path=str(folder / "model.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as agent,
        agent.request(
            method, URL("http://api.local" + path, encoded=True), json=asking("echo x")
        ) as answer,
    ):
        assert answer.status == 403
        assert (await answer.json())["error"]["type"] == "permission_error"
        assert answer.headers["x-should-retry"] == "false"
    assert model.journal.entries == []


async def test_hello_is_answered_here(host: Host, model: RunningModel) -> None:
    folder = await host.open_session()
    async with agent_at(folder) as agent, agent.head("/api/hello") as answer:
        assert answer.status == 200
    assert model.journal.entries == []


async def test_counting_tokens_passes_and_is_not_metered(host: Host) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages/count_tokens", json=asking("x")) as answer,
    ):
        assert (await answer.json())["input_tokens"] > 0
    assert (await host.close_turn()).calls == 0


async def test_bytes_arrive_while_the_upstream_holds_back_the_rest(host: Host) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", json=asking("hang after 3")) as answer,
    ):
        seen = b""
        while b"w2" not in seen:
            seen += await answer.content.readany()
    assert b"message_stop" not in seen


async def test_a_hang_up_of_the_agent_ends_the_upstream_call_at_once(
    host: Host, model: RunningModel
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with agent_at(folder) as agent:
        async with agent.post("/v1/messages", json=asking("hang after 2")) as answer:
            await answer.content.readany()
            answer.close()
        ended = await model.journal.wait_for(_has_ended, timeout_s=PATIENCE_S)
        assert ended.ended == "aborted"


async def test_a_hang_up_before_the_first_byte_ends_the_upstream_call(
    host: Host, model: RunningModel
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with agent_at(folder) as agent, asyncio.TaskGroup() as group:
        call = group.create_task(_text(agent, "hang"))
        await model.journal.wait_for(lambda entry: True, timeout_s=PATIENCE_S)
        call.cancel()
        ended = await model.journal.wait_for(_has_ended, timeout_s=PATIENCE_S)
        assert ended.ended == "aborted"


async def test_closing_the_turn_breaks_off_its_calls_on_both_sides(
    host: Host, model: RunningModel
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with (
        agent_at(folder) as agent,
        agent.post("/v1/messages", json=asking("hang after 2")) as answer,
    ):
        await answer.content.readany()
        meter = await host.close_turn()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    assert meter.calls == 1
    assert meter.usage.input_tokens > 0
    assert (await model.journal.wait_for(_has_ended, timeout_s=PATIENCE_S)).ended == "aborted"


@pytest.mark.parametrize(
    ("script", "status", "retry"),
    [
        ("error 400", 400, "false"),
        ("error 401", 401, "false"),
        ("error 403", 403, "false"),
        ("error 404", 404, "false"),
        ("error 413", 413, "false"),
        ("error 429", 429, None),
        ("error 429 retry-after 5", 429, None),
        ("error 429 retry-after 60", 429, "false"),
        ("error 529", 529, None),
        ("error 529 retry-after 21", 529, "false"),
        ("error 500", 500, None),
    ],
)
async def test_errors_say_whether_a_retry_helps(
    host: Host, script: str, status: int, retry: str | None
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with agent_at(folder) as agent, agent.post("/v1/messages", json=asking(script)) as answer:
        assert answer.status == status
        assert answer.headers.get("x-should-retry") == retry
        assert (await answer.json())["type"] == "error"
    last_error = (await host.close_turn()).last_error
    assert last_error is not None
    assert last_error.status == status
    assert last_error.kind
    if "retry-after" in script:
        assert last_error.retry_after_s == float(script.split()[-1])


async def test_a_call_that_failed_three_times_is_worth_no_further_try(host: Host) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with agent_at(folder) as agent:

        async def word_on_retrying(script: str) -> str | None:
            async with agent.post("/v1/messages", json=asking(script)) as answer:
                return answer.headers.get("x-should-retry")

        words = [await word_on_retrying("error 529") for _ in range(3)]
        assert words == [None, None, "false"]
        assert await word_on_retrying("error 500") is None, "another call"


@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_are_read_from_the_wire(host: Host, stream: bool) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with agent_at(folder) as agent:
        for _ in range(2):
            body = asking("usage 10 20 3 4", stream=stream)
            async with agent.post("/v1/messages", json=body) as answer:
                await answer.read()
    meter = await host.close_turn()
    assert meter.calls == 2
    assert meter.usage == Usage(
        input_tokens=20,
        output_tokens=40,
        cache_creation_input_tokens=6,
        cache_read_input_tokens=8,
    )
    assert meter.last_error is None
    assert await host.close_turn() == meter


@pytest.mark.parametrize(
    ("script", "status", "kind"),
    [("drop after 3", 502, "stream_broken"), ("error 529 after 3", 529, "overloaded_error")],
)
async def test_a_broken_stream_ends_with_an_error_and_still_counts(
    host: Host, script: str, status: int, kind: str
) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with agent_at(folder) as agent, agent.post("/v1/messages", json=asking(script)) as answer:
        told = await answer.content.read()
    # The text it was in is finished, and the answer never ends as if it were whole.
    assert told.index(b"event: content_block_stop") < told.index(b"event: error")
    assert b"message_stop" not in told
    meter = await host.close_turn()
    assert meter.calls == 1
    assert meter.usage.input_tokens > 0
    assert meter.last_error is not None
    assert (meter.last_error.status, meter.last_error.kind) == (status, kind)


async def test_an_upstream_that_is_away_is_a_502_worth_a_retry(make_host: HostMaker) -> None:
    host = make_host(upstream_url="http://127.0.0.1:9")
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        async with (
            agent_at(folder) as agent,
            agent.post("/v1/messages", json=asking("echo x")) as answer,
        ):
            assert answer.status == 502
            assert answer.headers["x-should-retry"] == "true"
            error = (await answer.json())["error"]
        assert error == {"type": "api_error", "message": "The model's server cannot be reached."}
        last_error = (await host.close_turn()).last_error
        assert last_error is not None
        assert last_error.kind == "unreachable"


async def test_a_silent_upstream_is_given_up(make_host: HostMaker, model: RunningModel) -> None:
    host = make_host(upstream_url=model.url, timeouts=UpstreamTimeouts(silence_s=0.2))
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        async with agent_at(folder) as agent:
            async with agent.post("/v1/messages", json=asking("hang")) as answer:
                assert answer.status == 502
            async with agent.post("/v1/messages", json=asking("hang after 2")) as answer:
                assert b"event: error" in await answer.content.read()


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_body_over_the_bound_is_413(
    make_host: HostMaker, model: RunningModel, is_chunked: bool
) -> None:
    host = make_host(upstream_url=model.url, model_limits=ModelLimits(body_max_bytes=100_000))
    large = json.dumps(asking("x" * 200_000)).encode()

    async def pieces() -> object:
        for at in range(0, len(large), 10_000):
            yield large[at : at + 10_000]

    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn()
        async with (
            agent_at(folder) as agent,
            agent.post("/v1/messages", data=pieces() if is_chunked else large) as answer,
        ):
            assert answer.status == 413
            assert (await answer.json())["error"]["type"] == "request_too_large"
    assert [entry for entry in model.journal.entries if entry.ended == "done"] == []


async def test_a_large_request_arrives_whole(host: Host, model: RunningModel) -> None:
    folder = await host.open_session()
    await host.open_turn()
    async with agent_at(folder) as agent:
        body = asking("history", stream=False) | {"system": "s" * 5_000_000}
        raw = io.BytesIO(json.dumps(body).encode())
        async with agent.post("/v1/messages", data=raw) as answer:
            assert answer.status == 200
    assert len(model.journal.last_body["system"]) == 5_000_000


async def test_a_turn_may_be_bound_to_models(host: Host) -> None:
    folder = await host.open_session()
    await host.open_turn(models=("claude-a",))
    async with agent_at(folder) as agent:
        for name, status in (("claude-a", 200), ("claude-b", 403)):
            body = asking("echo hi", model=name)
            async with agent.post("/v1/messages", json=body) as answer:
                assert answer.status == status
                await answer.read()


async def test_expiry_wipes_the_key_and_cuts_off_what_runs(
    make_host: HostMaker, model: RunningModel
) -> None:
    clock = ManualClock()
    host = make_host(upstream_url=model.url, surroundings=Outside(clock=clock))
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn(lasts_s=30)
        async with agent_at(folder) as agent:
            async with agent.post("/v1/messages", json=asking("hang after 2")) as answer:
                await answer.content.readany()
                await clock.advance(31)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.content.read()
            async with agent.post("/v1/messages", json=asking("echo hi")) as answer:
                assert answer.status == 403
                assert "expired" in (await answer.json())["error"]["message"]
        assert (await host.close_turn()).calls == 1


async def test_turns_follow_each_other_with_their_own_keys(host: Host) -> None:
    folder = await host.open_session()
    async with agent_at(folder) as agent:
        for n in (1, 2):
            turn = TurnId(f"turn_{n:032x}")
            await host.open_turn(turn, key=f"sk-ant-key-{n}")
            assert await _text(agent, "key") == f"x-api-key=sk-ant-key-{n} auth=None"
            await host.close_turn(turn)


async def test_the_key_is_in_no_log(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    folder = await host.open_session()
    sealed = (await host.open_turn()).sealed_key
    async with agent_at(folder) as agent:
        for script in ("echo hi", "error 401", "drop after 1", "error 500"):
            async with agent.post("/v1/messages", json=asking(script)) as answer:
                try:
                    await answer.read()
                except aiohttp.ClientPayloadError:
                    continue
    await host.close_turn()
    await host.worker.close_session(CONVERSATION, Fence(1))
    written = "\n".join(
        f"{record.name} {record.getMessage()} {vars(record)}" for record in caplog.records
    )
    assert "turn closed" in written
    assert KEY not in written
    assert sealed not in written


async def _text(agent: aiohttp.ClientSession, prompt: str) -> str:
    async with agent.post("/v1/messages", json=asking(prompt, stream=False)) as answer:
        return str((await answer.json())["content"][0]["text"])


def _has_ended(entry: Entry) -> bool:
    return entry.ended is not None
