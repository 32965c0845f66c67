"""The SDK's transport for a process that runs already."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from claude_agent_sdk import CLIConnectionError, CLIJSONDecodeError, ProcessError

from agent.cli import early_transport
from agent.cli.early_transport import EarlyTransport

ECHO = "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n"


def started(code: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
    )


@asynccontextmanager
async def connected(
    code: str, *, line_max_bytes: int = 1024 * 1024
) -> AsyncIterator[tuple[EarlyTransport, list[str]]]:
    process = started(code)
    told: list[str] = []
    transport = EarlyTransport(process, line_max_bytes=line_max_bytes, on_stderr=told.append)
    try:
        await transport.connect()
        yield transport, told
    finally:
        process.kill()
        await transport.close()
        assert process.returncode is not None


async def read(transport: EarlyTransport) -> list[dict[str, object]]:
    return [message async for message in transport.read_messages()]


async def test_messages_go_both_ways_and_the_end_of_its_input_ends_it() -> None:
    async with connected(ECHO) as (transport, _):
        assert transport.is_ready()
        long = {"text": "x" * 300_000}
        for message in (long, {"n": 2}):
            await transport.write(json.dumps(message) + "\n")
        messages = transport.read_messages()
        assert [await anext(messages), await anext(messages)] == [long, {"n": 2}]

        await transport.end_input()
        assert not transport.is_ready()
        assert [rest async for rest in messages] == []
        with pytest.raises(CLIConnectionError):
            await transport.write("{}\n")


async def test_what_is_no_message_is_skipped_and_a_cut_one_dropped() -> None:
    code = "print('[SandboxDebug] hello\\n\\n{\"n\": 1}\\n{\"n\": ', end='')"
    async with connected(code) as (transport, _):
        assert await read(transport) == [{"n": 1}]


async def test_a_failed_process_is_an_error_and_its_last_words_are_told() -> None:
    code = "import sys; print('no such model', file=sys.stderr, flush=True); sys.exit(3)"
    async with connected(code) as (transport, told):
        with pytest.raises(ProcessError) as failed:
            await read(transport)
        assert failed.value.exit_code == 3
        assert told == ["no such model"]


@pytest.mark.parametrize("code", ["print('{broken}')", "print('{' + 'x' * 5000)"])
async def test_a_message_that_cannot_be_read_is_an_error(code: str) -> None:
    async with connected(code, line_max_bytes=1000) as (transport, _):
        with pytest.raises(CLIJSONDecodeError):
            await read(transport)


async def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_transport, "EXIT_S", 0.2)
    deaf = "import time; print('{}', flush=True); time.sleep(60)"
    async with connected(deaf) as (transport, _):
        assert await anext(transport.read_messages()) == {}
        await transport.close()
        assert not transport.is_ready()
