"""What a light agent does: the part of the scripted model's language that chaos prompts use.

    [tool bash [sleep S; ]echo WORD >> /workspace/FILE then ]stream N deltas every D ms [plain]
    crash        its container ends before it has said anything

so that a light cluster and one with real agents are asked the same. The tool is real in what
counts: it appends one line to a file of the conversation's workspace. Nothing is executed.
"""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from agent.turn import RunningTurn
from infra.wire.events import ToolCall, ToolResult, TurnEnded
from infra.wire.link import StartTurn
from infra.wire.turns import TextBlock
from tests.fakes.scripted_agent import (
    Deltas,
    Script,
    ScriptedAgent,
    ScriptedSession,
    Step,
    script_of,
)
from worker.hosts.host import ContainerSpec

_STREAM = re.compile(r"stream (\d+) deltas every ([\d.]+) ms(?: plain)?")
_MARK = re.compile(r"tool bash (?:sleep ([\d.]+); )?echo (\w+) >> /workspace/(\w+)")
CRASHES = "crashes"
"""A file in the workspace with one line per start of a turn that crashes its container."""


@dataclass(frozen=True)
class Mark:
    """A tool that takes its time and then appends a word to a file."""

    file: Path
    word: str
    after_s: float

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        id = f"toolu_{uuid.uuid4().hex[:12]}"
        await turn.say(ToolCall(id=id, name="Bash", summary=f"echo {self.word}"))
        await asyncio.sleep(self.after_s)
        _append(self.file, self.word)
        await turn.say(ToolResult(id=id, name="Bash", summary="ok"))
        return None


@dataclass(frozen=True)
class Crash:
    """The container's process is gone."""

    file: Path
    crash: Callable[[], None]

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        _append(self.file, turn.start.turn)
        self.crash()
        await asyncio.Event().wait()
        return None


def light_agent(spec: ContainerSpec, *, crash: Callable[[], None]) -> ScriptedAgent:
    """The agent of one container. `crash` ends that container."""

    # A container follows its folder when a spare's is renamed; so does a descriptor.
    folder = os.open(spec.folders.workspace, os.O_RDONLY | os.O_DIRECTORY)
    workspace = Path(f"/proc/self/fd/{folder}")

    def choose(start: StartTurn) -> Script:
        steps = [_step(words, workspace, crash) for words in _steps(start)]
        return script_of(start) if None in steps else [step for step in steps if step]

    return LightAgent(spec.folders.sockets / "agent.sock", choose=choose, folder=folder)


class LightAgent(ScriptedAgent):
    """A scripted agent with an open folder."""

    def __init__(self, socket: Path, *, choose: Callable[[StartTurn], Script], folder: int) -> None:
        super().__init__(socket, choose=choose)
        self._folder = folder

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            os.close(self._folder)


def _steps(start: StartTurn) -> list[str]:
    """Of the newest message: what an earlier one asked, which was stopped before the agent heard of
    it, comes along in front of it."""
    texts = [block.text for block in start.prompt if isinstance(block, TextBlock)]
    return texts[-1].split(" then ") if texts else []


def _step(words: str, workspace: Path, crash: Callable[[], None]) -> Step | None:
    if found := _STREAM.fullmatch(words):
        return Deltas(int(found[1]), every_s=float(found[2]) / 1000)
    if found := _MARK.fullmatch(words):
        return Mark(workspace / found[3], found[2], float(found[1] or 0))
    if words == "crash":
        return Crash(workspace / CRASHES, crash)
    return None


def _append(file: Path, word: str) -> None:
    """One write of one line: what two agents append does not mix."""
    with file.open("a") as out:
        out.write(f"{word}\n")
