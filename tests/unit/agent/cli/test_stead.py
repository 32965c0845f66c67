"""Between a CLI and its model: one request is answered there, all others pass as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.cli.offers import OfferedCall
from agent.cli.stead import CallsInStead

CALL = OfferedCall("toolu_new", "Bash", {"command": "git push"})


class PlainModel:
    """Answers each request with its own bytes; the second half only when it is let."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.hung_up = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.heard.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbegun ")
        await writer.drain()
        if not self.may_end.is_set() and not await reader.read(1):
            self.hung_up.set()
        writer.write(b"ended")
        writer.close()


@asynccontextmanager
async def between(folder: Path) -> AsyncIterator[tuple[CallsInStead, PlainModel, Path]]:
    model = PlainModel()
    server = await asyncio.start_unix_server(model.serve, folder / "real.sock")
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        stead = CallsInStead(folder / "real.sock", folder / "own.sock", group)
        yield stead, model, await stead.socket()
        stead.close()
    server.close()


def request(body: Any, *, path: str = "/v1/messages?beta=true") -> bytes:
    told = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(told) + told


def bringing(id: str, **more: Any) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": id, "content": "approved"}
    return {
        "model": "m",
        "stream": True,
        "messages": [{"role": "user", "content": [result]}],
    } | more


async def asked(socket: Path, told: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(told)
    answer = await reader.read()
    writer.close()
    return answer


async def test_the_request_with_the_awaited_result_is_answered_with_the_call(
    tmp_path: Path,
) -> None:
    async with between(tmp_path) as (stead, model, socket):
        stead.make([CALL], result_of="toolu_old")
        answer = (await asked(socket, request(bringing("toolu_old")))).decode()
        assert model.heard == []
        assert '"id":"toolu_new","name":"Bash"' in answer
        assert json.dumps(json.dumps({"command": "git push"})) in answer
        assert '"stop_reason":"tool_use"' in answer
        stead.forget()
        assert b"begun ended" in await asked(socket, request(bringing("toolu_old")))


@pytest.mark.parametrize(
    "told",
    [
        request(bringing("toolu_other")),
        request(bringing("toolu_old", stream=False)),
        request(bringing("toolu_old"), path="/v1/messages/count_tokens"),
        request({"messages": []}),
        request([1]),
        request({"stream": True, "messages": [{"role": "user", "content": "toolu_old"}]}),
    ],
)
async def test_every_other_request_goes_to_the_model_as_it_is(tmp_path: Path, told: bytes) -> None:
    async with between(tmp_path) as (stead, model, socket):
        stead.make([CALL], result_of="toolu_old")
        assert (await asked(socket, told)).endswith(b"begun ended")
        (heard,) = model.heard
        alone = told.replace(b"\r\nConnection: keep-alive", b"")
        assert heard.replace(b"\r\nconnection: close", b"") == alone


async def test_a_second_request_behind_the_first_does_not_go_by_unseen(tmp_path: Path) -> None:
    async with between(tmp_path) as (_, model, socket):
        model.may_end.clear()
        await asked(socket, request({"a": 1}) + request({"b": 2}))
        assert len(model.heard) == 1
        assert b'"b"' not in model.heard[0]


async def test_a_cli_that_hangs_up_wants_no_more_of_the_answer(tmp_path: Path) -> None:
    async with between(tmp_path) as (_, model, socket):
        model.may_end.clear()
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(request({"a": 1}))
        await reader.readuntil(b"begun ")
        writer.close()
        await model.hung_up.wait()


async def test_without_a_model_the_connection_ends(tmp_path: Path) -> None:
    async with between(tmp_path) as (_, _, socket):
        (tmp_path / "real.sock").unlink()
        assert await asked(socket, request({})) == b""
        assert await asked(socket, b"x" * 200_000) == b""
