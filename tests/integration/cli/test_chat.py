"""`agcluster chat` as its user meets it: the real command in a pseudo-terminal, the real API."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra.cli.up.programs import python_command
from infra.wire.events import TextDelta, ThinkingDelta, ToolCall, ToolResult, TurnEnded
from infra.wire.states import TurnState
from infra.wire.turns import FileBlock
from tests.fakes.echo_worker import DONE, Gate, Script, words
from tests.fakes.redis_proxy import redis_proxy
from tests.fakes.running_api import KEY, RunningApi, running_api

pytestmark = pytest.mark.timeout(120)

COMMAND = (*python_command("infra.cli.main"), "chat")
WAIT_S = 60.0


class Terminal:
    """A person at a pseudo-terminal with the command in it."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self._master = master
        self.process = process
        self.seen = ""
        self._news = asyncio.Event()
        self._from = 0

    def hear(self) -> None:
        try:
            told = os.read(self._master, 65536)
        except OSError:  # The command has left.
            told = b""
        if not told:
            asyncio.get_running_loop().remove_reader(self._master)
        self.seen += told.decode(errors="replace")
        self._news.set()

    async def sees(self, text: str, *, within_s: float = WAIT_S) -> str:
        """Wait for it, after what was waited for before. Returns what came with it."""
        try:
            async with asyncio.timeout(within_s):
                while (at := self.seen.find(text, self._from)) < 0:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.seen!r}") from None
        since, self._from = self.seen[self._from : at + len(text)], at + len(text)
        return since

    def types(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())

    async def interrupts(self, until: str) -> None:
        """Ctrl-C, until that is seen. Python loses one that comes just before it begins to wait."""
        for _ in range(10):
            os.write(self._master, b"\x03")
            with suppress(AssertionError):
                await self.sees(until, within_s=WAIT_S / 10)
                return
        raise AssertionError(f"no {until!r} in {self.seen!r}")

    async def has_left(self) -> int:
        async with asyncio.timeout(WAIT_S):
            return await self.process.wait()


def environ(folder: Path, **more: str) -> Mapping[str, str]:
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "OPENAI_API_KEY": KEY,
        "XDG_STATE_HOME": str(folder),
        "NO_COLOR": "1",
        "LANG": "C.UTF-8",
        **more,
    }


@asynccontextmanager
async def terminal(url: str, folder: Path, *arguments: str) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "--url",
            f"{url}/v1",
            *arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ(folder),
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        made = Terminal(master, process)
        asyncio.get_running_loop().add_reader(master, made.hear)
        try:
            yield made
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()
            asyncio.get_running_loop().remove_reader(master)
    finally:
        os.close(master)


def _take_terminal() -> None:
    """A session of its own, whose terminal is the standard input: so Ctrl-C is a signal."""
    os.setsid()
    os.close(os.open(os.ttyname(0), os.O_RDWR))


async def printed(api: RunningApi, folder: Path, *arguments: str) -> tuple[int, str]:
    """What it prints where nobody watches."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "--url",
        f"{api.url}/v1",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environ(folder),
    )
    told, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told.decode()


async def test_an_answer_comes_with_its_work_folded_and_a_question_is_answered(
    tmp_path: Path,
) -> None:
    script: Script = {
        "go": [
            ThinkingDelta(text="hm"),
            ToolCall(id="1", name="Bash", summary="ls"),
            ToolResult(id="1", name="Bash", summary="3 lines"),
            TextDelta(text="**Which?**\n\n1. this\n2. that"),
            TurnEnded(state=TurnState.DONE, asks=True),
        ],
        "\x1b[31mred": [TextDelta(text="\x1b]0;title\x07"), DONE],
    }
    async with running_api(script) as api, terminal(api.url, tmp_path) as person:
        await person.sees("/help")
        await person.sees("> ")
        person.types("go")
        await person.sees("· Bash: ls")
        await person.sees("▸ 3 lines of work")
        await person.sees("2. that")
        await person.sees("> ")
        person.types("/work")
        assert "hm" in await person.sees("Bash → 3 lines")
        person.types("the first")
        await person.sees("the first\r\nthe first")
        assert len({request.conversation for request in api.worker.requests}) == 1
        assert api.worker.requests[-1].is_thin
        api.worker.say("title", [TextDelta(text="\x1b]0;title\x07"), DONE])
        person.types("title")
        assert "\x1b]0;" not in await person.sees("title\\x07")
        person.types("/agent")
        await person.sees("claude-sonnet-4-5")
        person.types("/quit")
        assert await person.has_left() == 0


async def test_ctrl_c_stops_an_answer_and_leaves_at_the_second_time(tmp_path: Path) -> None:
    script: Script = {"go": [TextDelta(text="begun"), Gate("never"), DONE]}
    async with running_api(script) as api, terminal(api.url, tmp_path) as person:
        await person.sees("> ")
        person.types("go")
        await person.sees("begun")
        await person.interrupts(until="stopped")
        async with asyncio.timeout(WAIT_S):
            _, state = await api.worker.ended.get()
        assert state is TurnState.CANCELLED
        await person.sees("> ")
        person.types("still here")
        await person.sees("still here\r\nstill here")
        await person.sees("> ")
        await person.interrupts(until="Ctrl-C again leaves")
        await person.interrupts(until="\r\n")
        assert await person.has_left() == 0


async def test_a_cut_connection_costs_no_word(tmp_path: Path) -> None:
    script: Script = {"go": [*words("one two "), Gate("on"), *words("three four"), DONE]}
    async with (
        running_api(script) as api,
        redis_proxy(f"redis://{urlsplit(api.url).netloc}") as between,
        terminal(f"http://{urlsplit(between.url).netloc}", tmp_path, "go") as person,
    ):
        await person.sees("one two")
        between.refuse()
        between.cut()
        api.worker.gates["on"].set()
        between.heal()
        await person.sees("three four")
        assert await person.has_left() == 0
        assert person.seen.count("one") == 1
        assert len(api.worker.requests) == 1


async def test_a_message_is_asked_once_with_its_files(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b\n")
    async with running_api({"look": words("I see.")}) as api:
        assert await printed(api, tmp_path, "look", "--file", str(table)) == (0, "I see.\n")
        _, block = api.worker.requests[-1].prompt
        assert isinstance(block, FileBlock)
        assert (block.filename, block.bytes) == ("t.csv", 4)


async def conversations(api: RunningApi, folder: Path, *runs: Sequence[str]) -> list[str]:
    for arguments in runs:
        assert (await printed(api, folder, "hello", *arguments))[0] == 0
    return [request.conversation for request in api.worker.requests]


async def test_it_goes_on_where_it_was_unless_told_otherwise(tmp_path: Path) -> None:
    async with running_api() as api:
        first, again, named, new, last = await conversations(
            api, tmp_path, (), (), ("--name", "work"), ("--new",), ()
        )
    assert first == again
    assert len({first, named, new}) == 3
    assert last == new


async def test_what_fails_says_why(tmp_path: Path) -> None:
    async with running_api() as api:
        code, told = await printed(api, tmp_path, "hello", "--agent", "nobody")
        assert code == 1
        assert "The model `nobody` does not exist" in told
        code, told = await printed(api, tmp_path, "hello", "--file", str(tmp_path / "none"))
        assert (code, "cannot be read" in told) == (1, True)
        (tmp_path / "agcluster" / "chats.json").unlink(missing_ok=True)
        code, told = await printed(api, tmp_path, "hello", "--name", "büro")
        assert (code, "1 to 200" in told) == (2, True)
        assert not (tmp_path / "agcluster" / "chats.json").exists()
    code, told = await printed(api, tmp_path, "hello")
    assert (code, "cannot be reached" in told) == (1, True)


async def test_a_pipe_gets_the_text_as_it_came(tmp_path: Path) -> None:
    async with running_api({"rule": words("all:\n\tcc \u200fx")}) as api:
        assert await printed(api, tmp_path, "rule") == (0, "all:\n\tcc \u200fx\n")
