"""What MCP servers in the container write to standard error."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agent.server_words import SERVERS_MAX, TAIL_BYTES, ServerWords


async def say(words: ServerWords, name: str, *pieces: bytes) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_unix_connection(str(words.path))
    writer.writelines((f"{name}\n".encode(), *pieces))
    await writer.drain()
    return writer


async def until_last(words: ServerWords, name: str, line: str) -> None:
    async with asyncio.timeout(10):
        while words.last(name) != line:  # noqa: ASYNC110 - nothing tells that it was read
            await asyncio.sleep(0.005)


async def until_left(words: ServerWords) -> None:
    async with asyncio.timeout(10):
        while words._open:  # noqa: ASYNC110 - nothing tells that it was seen
            await asyncio.sleep(0.005)
    words.close()
    await asyncio.sleep(0.01)  # Until the loop has closed what was told to close.


async def test_of_what_a_server_writes_the_last_is_kept(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        words = ServerWords(tmp_path / "s", group)
        await words.listen()
        writer = await say(words, "a", b"noise\n" * 100_000, b"the end\n\n")
        await until_last(words, "a", "the end")
        assert len(words._tails["a"]) <= TAIL_BYTES
        assert words.last("b") is None
        assert words.processes == {"a": os.getpid()}
        writer.close()
        await until_left(words)
        assert words.processes == {}


async def test_names_are_bounded(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        words = ServerWords(tmp_path / "s", group)
        await words.listen()
        for number in range(SERVERS_MAX + 5):
            (await say(words, f"n{number}", b"x\n")).close()
        (await say(words, "n" * 500, b"x\n")).close()
        await until_last(words, f"n{SERVERS_MAX - 1}", "x")
        assert len(words._tails) == SERVERS_MAX
        await until_left(words)
