"""The scripted model over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from infra.scripted_model.journal import ENTRIES_MAX, Entry, Journal
from infra.scripted_model.server import Options
from tests.fakes.scripted_model import RunningModel, running_model

KEY = {"x-api-key": "sk-ant-any"}
PATIENCE_S = 20.0


@pytest.fixture
async def model() -> AsyncIterator[RunningModel]:
    async with running_model() as running:
        yield running


@pytest.fixture
async def client(model: RunningModel) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(model.url, headers=KEY, timeout=timeout) as session:
        yield session


def body(prompt: str, *, stream: bool = True) -> dict[str, Any]:
    return {
        "model": "claude-x",
        "stream": stream,
        "messages": [{"role": "user", "content": prompt}],
    }


async def events(client: aiohttp.ClientSession, prompt: str) -> list[dict[str, Any]]:
    async with client.post("/v1/messages?beta=true", json=body(prompt)) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        raw = (await answer.read()).decode()
    found = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: ")]
    names = [line[7:] for line in raw.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in found]
    return found


async def test_a_stream_has_the_apis_shape(client: aiohttp.ClientSession) -> None:
    found = await events(client, "think hm => two words")
    assert [event["type"] for event in found] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert found[3]["delta"] == {"type": "thinking_delta", "thinking": "hm"}
    assert found[4]["delta"]["type"] == "signature_delta"
    assert found[7]["delta"] == {"type": "text_delta", "text": "two"}
    assert found[-2]["delta"]["stop_reason"] == "end_turn"
    assert found[-2]["usage"]["output_tokens"] == 4


async def test_a_tools_input_comes_in_pieces(client: aiohttp.ClientSession) -> None:
    found = await events(client, "tool write /workspace/a " + "x" * 100)
    start = next(event for event in found if event["type"] == "content_block_start")
    assert start["content_block"]["input"] == {}
    assert start["content_block"]["id"].startswith("toolu_")
    pieces = [e["delta"]["partial_json"] for e in found if e["type"] == "content_block_delta"]
    assert json.loads("".join(pieces))["content"] == "x" * 100


async def test_a_whole_message_says_the_same(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/messages", json=body("say hi + tool bash ls", stream=False)) as a:
        message = await a.json()
    assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
    assert message["stop_reason"] == "tool_use"


async def test_odd_characters_survive(client: aiohttp.ClientSession) -> None:
    found = await events(client, 'echo “ü”\n😀 \\ " end')
    said = "".join(e["delta"]["text"] for e in found if e["type"] == "content_block_delta")
    assert said == '“ü”\n😀 \\ " end'


async def test_paced_deltas_carry_the_time_they_left(client: aiohttp.ClientSession) -> None:
    begun = time.time_ns()
    found = await events(client, "stream 5 deltas every 5 ms")
    stamps = [e["delta"]["text"] for e in found if e["type"] == "content_block_delta"]
    assert [stamp.partition("@")[0] for stamp in stamps] == ["0", "1", "2", "3", "4"]
    times = [int(stamp.partition("@")[2]) for stamp in stamps]
    assert begun < times[0]
    assert times == sorted(times)
    # Late deltas catch up, so only the whole is sure to take its time.
    assert times[-1] - begun >= 24_000_000


async def test_ten_thousand_deltas_arrive_in_order(client: aiohttp.ClientSession) -> None:
    found = await events(client, "stream 10000 deltas of 1 chars")
    said = "".join(e["delta"]["text"] for e in found if e["type"] == "content_block_delta")
    assert said.split() == [str(i) for i in range(10_000)]


@pytest.mark.parametrize("key", ["sk-ant-wrong-1", "bad", "bad-key", ""])
async def test_bad_keys_are_refused_everywhere(model: RunningModel, key: str) -> None:
    async with aiohttp.ClientSession(model.url, headers={"x-api-key": key}) as client:
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/v1/models/claude-x"),
            ("POST", "/v1/messages"),
            ("POST", "/v1/messages/count_tokens"),
        ):
            async with client.request(method, path, json=body("echo hi")) as answer:
                assert answer.status == 401
                assert (await answer.json())["error"]["type"] == "authentication_error"


async def test_any_other_key_is_good(model: RunningModel) -> None:
    async with aiohttp.ClientSession(model.url) as client:
        headers = {"authorization": "Bearer sk-ant-fine"}
        async with client.get("/v1/models", headers=headers) as answer:
            assert answer.status == 200
            assert len((await answer.json())["data"]) > 1
        async with client.get("/v1/models/claude-x", headers=headers) as answer:
            assert (await answer.json())["id"] == "claude-x"
        async with client.get("/v1/models/gpt-4", headers=headers) as answer:
            assert answer.status == 404
        async with client.head("/api/hello") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"messages": 7}'])
async def test_bad_bodies_are_400(client: aiohttp.ClientSession, raw: bytes) -> None:
    async with client.post("/v1/messages", data=raw) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


async def test_errors_have_the_apis_shape(client: aiohttp.ClientSession) -> None:
    async with client.post("/v1/messages", json=body("error 529 retry-after 9")) as answer:
        assert answer.status == 529
        assert answer.headers["retry-after"] == "9"
        assert (await answer.json())["error"]["type"] == "overloaded_error"


async def test_streams_break_where_the_script_says(
    client: aiohttp.ClientSession, model: RunningModel
) -> None:
    assert (await events(client, "error 529 after 2"))[-1]["error"]["type"] == "overloaded_error"
    async with client.post("/v1/messages", json=body("drop after 2")) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    assert [entry.ended for entry in model.journal.entries] == ["cut", "cut"]
    async with client.post("/v1/messages", json=body("drop after 2", stream=False)) as answer:
        assert (await answer.json())["content"][0]["text"].startswith("w0 w1 w2 ")


@pytest.mark.parametrize("prompt", ["hang", "hang after 2", "sleep 60000"])
async def test_a_client_that_leaves_is_noticed(
    client: aiohttp.ClientSession, model: RunningModel, prompt: str
) -> None:
    async def ask() -> None:
        async with client.post("/v1/messages", json=body(prompt)) as answer:
            await answer.content.read()

    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask())
        await model.journal.wait_for(lambda entry: True, timeout_s=PATIENCE_S)
        asking.cancel()
    ended = await model.journal.wait_for(lambda entry: bool(entry.ended), timeout_s=PATIENCE_S)
    assert ended.ended == "aborted"


async def test_the_journal_tells_what_was_asked(client: aiohttp.ClientSession) -> None:
    await events(client, "echo hi")
    async with client.get("/_script/log") as answer:
        entry = (await answer.json())[0]
    assert (entry["path"], entry["query"]) == ("/v1/messages", "beta=true")
    assert entry["headers"]["x-api-key"] == "sk-ant-any"
    assert entry["facts"]["prompt"] == "echo hi"
    async with client.get("/_script/last") as answer:
        assert (await answer.json())["messages"][0]["content"] == "echo hi"
    async with client.delete("/_script/log") as answer:
        assert answer.status == 204
    async with client.get("/_script/log") as answer:
        assert await answer.json() == []


async def test_a_demo_takes_any_key_but_none() -> None:
    async with running_model(Options(is_demo=True)) as model:
        for key, status in (("bad", 200), ("x", 200), ("", 401)):
            async with (
                aiohttp.ClientSession(model.url, headers={"x-api-key": key}) as client,
                client.post("/v1/messages", json=body("hello", stream=False)) as answer,
            ):
                assert answer.status == status


async def test_a_demos_journal_keeps_no_key() -> None:
    async with running_model(Options(is_demo=True)) as model:
        headers = {"x-api-key": "sk-ant-real", "authorization": "Bearer sk-ant-real"}
        async with (
            aiohttp.ClientSession(model.url, headers=headers) as client,
            client.post("/v1/messages", json=body("hello", stream=False)) as answer,
        ):
            assert "scripted demo model" in (await answer.text())
        assert "sk-ant-real" not in json.dumps(model.journal.entries[0].as_json())


def test_the_journal_is_bounded() -> None:
    journal = Journal()
    for _ in range(ENTRIES_MAX + 5):
        journal.add(Entry(0, 0.0, "GET", "/", "", {}))
    assert len(journal.entries) == ENTRIES_MAX
    assert journal.entries[-1].n == ENTRIES_MAX + 5


async def test_the_process_says_where_it_listens_and_logs_what_it_was_asked(
    tmp_path: Path,
) -> None:
    log = tmp_path / "requests.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.scripted_model", "--port", "0", "--log", str(log)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={"PATH": os.environ["PATH"]},
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
        url = line.decode().removeprefix("scripted model listens on ").strip()
        async with (
            aiohttp.ClientSession(url, headers=KEY) as client,
            client.post("/v1/messages", json=body("echo hi")) as answer,
        ):
            await answer.read()
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    entry = json.loads(log.read_text())
    assert (entry["facts"]["prompt"], entry["ended"]) == ("echo hi", "done")
