"""An agent that follows a script: the real server and outbox, with no SDK behind them.

    async with ScriptedAgent(folder / "agent.sock", [Say("Hello"), Tool("Bash", "ls")]) as agent:
        ...

Every turn runs the script, or without one the script its prompt names: `AGENT_SCRIPTS` maps a
prompt's first word to a script, so that a test or a benchmark can choose over the wire
(`stream 100 every 20 ms`, `flood 100000`, `hang`, `fail 429`, `die`, `echo ...`). A script ends
with `done` unless it says otherwise. Passes `tests/contract/agent/` beside the real agent.

Variants are named for the trouble they act out: `SilentAgent` accepts and never answers,
`DyingAgent` drops its socket in the middle of a turn, `FloodingAgent` talks as fast as it can.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from agent.cli.offers import OfferedCall
from agent.delegation import DelegatedCalls
from agent.memory.transcripts import Entry, PartKey, Transcripts
from agent.server import LinkServer
from agent.start_times import now_ms
from agent.turn import RunningTurn
from infra.wire.agents.delegation import DELEGATE_TOOL
from infra.wire.errors import ErrorCode
from infra.wire.events import (
    EndReason,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnError,
    TurnStarted,
    Usage,
)
from infra.wire.link import (
    AgentSettings,
    AgentTimes,
    Answer,
    BaseKind,
    InterruptReason,
    StartTurn,
)
from infra.wire.states import TurnState
from infra.wire.turns import HistoryMessage, TextBlock

AGENT_VERSION = "scripted"
SDK_VERSION = "none"


class AgentDied(BaseException):
    """The script killed the agent: not an Exception, so that nothing turns it into an ending."""


class Step(Protocol):
    """One thing an agent does. Returns an ending to stop there."""

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None: ...


Script = Sequence[Step]


@dataclass(frozen=True)
class Say:
    """Say a text, one delta a word; with `every_s` between them."""

    text: str
    every_s: float = 0.0

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        for word in re.findall(r"\s*\S+\s*$|\s*\S+", self.text) or [self.text]:
            await turn.say(TextDelta(text=word))
            await asyncio.sleep(self.every_s)
        return None


@dataclass(frozen=True)
class Think:
    """Think a text, in one delta."""

    text: str

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        await turn.say(ThinkingDelta(text=self.text))
        return None


@dataclass(frozen=True)
class Tool:
    """Call a tool and tell its outcome."""

    name: str
    summary: str
    outcome: str = "ok"
    is_error: bool = False

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        id = f"toolu_{uuid.uuid4().hex[:12]}"
        await turn.say(ToolCall(id=id, name=self.name, summary=self.summary))
        outcome = ToolResult(id=id, name=self.name, summary=self.outcome, is_error=self.is_error)
        await turn.say(outcome)
        return None


@dataclass(frozen=True)
class Note:
    """Tell the waiting user something."""

    text: str

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        await turn.say(Notice(text=self.text))
        return None


@dataclass(frozen=True)
class Deltas:
    """Numbered deltas of a size; paced ones carry the time they were due to be said.

    Paced: `<i>@<monotonic ns> ` at a fixed rate, however late the last one was. Unpaced: a flood
    that lets the loop run now and then, as a socket would.
    """

    count: int
    every_s: float = 0.0
    chars: int = 16

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        due = time.monotonic()
        for i in range(self.count):
            if self.every_s:
                due += self.every_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                text = f"{i}@{time.monotonic_ns()} "
            else:
                text = f"{i} ".rjust(self.chars, "x")
                if i % 64 == 63:
                    await asyncio.sleep(0)
            await turn.say(TextDelta(text=text))
        return None


@dataclass(frozen=True)
class Forge:
    """Send these bytes as an event, as a server that was written anew could."""

    payload: bytes

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        turn.outbox._append(self.payload)
        return None


@dataclass(frozen=True)
class Wait:
    """Do nothing for so long."""

    seconds: float

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        await asyncio.sleep(self.seconds)
        return None


@dataclass(frozen=True)
class WaitFor:
    """Do nothing until the test sets the event."""

    event: asyncio.Event

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        await self.event.wait()
        return None


class Hang:
    """Do nothing for ever; an interrupt ends it."""

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        await asyncio.Event().wait()
        return None


@dataclass(frozen=True)
class Fail:
    """End with an error."""

    code: ErrorCode
    message: str = "as the script says"

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        return TurnEnded(
            state=TurnState.FAILED, error=TurnError(code=self.code, message=self.message)
        )


class Die:
    """The process is gone: links cut, socket gone, turn without an end."""

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        raise AgentDied


class Recall:
    """Say what the agent remembers: every prompt of the conversation, oldest first."""

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        await turn.say(TextDelta(text=" | ".join(session.prompts)))
        return None


class Echo:
    """Say the prompt without its first word."""

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        return await Say(prompt_text(turn.start).partition(" ")[2]).play(turn, session)


@dataclass(frozen=True)
class CallAgent:
    """Call another agent, and say what it answers. `id` is the call's; `is_forged`: whether or not
    it may be called."""

    agent: str
    task: str
    id: str = "toolu_1"
    conversation: str | None = None
    is_forged: bool = False

    async def play(self, turn: RunningTurn, session: ScriptedSession) -> TurnEnded | None:
        known = {self.agent: ""} if self.is_forged else turn.start.settings.delegates
        calls = DelegatedCalls(turn, known, tell=session.tell)
        if not calls.offers:
            return await Say("There is nobody to call.").play(turn, session)
        turn.calls = calls
        given = {"agent": self.agent, "task": self.task, "conversation": self.conversation}
        run = calls.offers[0].run
        assert run is not None
        await turn.say(ToolCall(id=self.id, name=DELEGATE_TOOL, summary=self.agent))
        reply = await run(OfferedCall(self.id, DELEGATE_TOOL, given))
        return await Say(reply.text).play(turn, session)


_CODES = {
    "401": ErrorCode.INVALID_KEY,
    "403": ErrorCode.PERMISSION_DENIED,
    "404": ErrorCode.MODEL_NOT_FOUND,
    "429": ErrorCode.RATE_LIMITED,
    "529": ErrorCode.OVERLOADED,
}

AGENT_SCRIPTS: dict[str, Callable[[list[str]], Script]] = {
    "echo": lambda words: [Echo()],
    "stream": lambda words: [
        Deltas(
            int(words[1]),
            every_s=_after("every", words, default=0) / 1000,
            chars=int(_after("of", words, default=16)),
        )
    ],
    "flood": lambda words: [Deltas(int(words[1]))],
    "hang": lambda words: [Hang()],
    "wait": lambda words: [Wait(int(words[1]) / 1000), Say("waited")],
    "fail": lambda words: [Fail(_CODES.get(words[1], ErrorCode.UPSTREAM_ERROR))],
    "delegate": lambda words: [CallAgent(words[1], " ".join(words[2:]))],
    "delegate-in": lambda words: [CallAgent(words[2], " ".join(words[3:]), conversation=words[1])],
    "forge-call": lambda words: [CallAgent(words[1], " ".join(words[2:]), is_forged=True)],
    "delegate-each": lambda words: [CallAgent("helper", "echo hi", id=id) for id in words[1:]],
    "die": lambda words: [Say("about to die "), Die()],
    "history": lambda words: [Recall()],
    "tool": lambda words: [Tool("Bash", " ".join(words[1:]), "ok, 1 line"), Say("done")],
    "forge": lambda words: [
        Say("before "),
        *[Forge(bytes.fromhex(words[1]))] * int(_after("times", words, default=1)),
        Say("after"),
    ],
    "think": lambda words: [Think(" ".join(words[1:])), Say("thought")],
}
"""What a prompt that starts with such a word makes the agent do: `stream N deltas [every MS ms]
[of K chars]`, `flood N`, `hang`, `wait MS`, `fail STATUS`, `die`, `history`, `tool COMMAND`,
`think TEXT`, `forge HEX [times N]`, `echo TEXT`, `delegate AGENT TASK`, `delegate-in CONVERSATION
AGENT TASK`, `delegate-each CALL ...`, `forge-call AGENT TASK`. Where the scripted model has the
word too, it means the same.
"""


class ScriptedSession:
    """Plays a script for each turn, and remembers the prompts as a real agent would.

    Its transcript is one entry for each prompt; a turn's checkpoint is its prompt's entry.
    """

    def __init__(
        self,
        script: Script | None = None,
        transcripts: Transcripts | None = None,
        *,
        choose: Callable[[StartTurn], Script] | None = None,
    ) -> None:
        """`choose` picks a turn's script where there is no `script`; by default its prompt does."""
        self._script = script
        self._choose = choose or script_of
        self._transcripts = transcripts or Transcripts()
        self._memory: list[Entry] = []
        self.sdk_session: str | None = None
        self.started: list[StartTurn] = []
        """Every turn this agent ran, for tests to look at."""
        self.tell: Callable[[Answer], None] = lambda answer: None
        self.prepared: AgentSettings | None = None
        """What it was prepared for as a spare."""

    @property
    def prompts(self) -> list[str]:
        """What it remembers, oldest first."""
        return [entry["text"] for entry in self._memory]

    async def prepare(self, settings: AgentSettings) -> bool:
        self.prepared = settings
        return True

    async def run(self, turn: RunningTurn) -> TurnEnded:
        if not self.started:
            now = now_ms()
            self.tell(
                AgentTimes(
                    python_ms=now, listening_ms=now, cli_spawned_ms=now, cli_connected_ms=now
                )
            )
        self.started.append(turn.start)
        checkpoint = self._remember(turn.start)
        await turn.say(
            TurnStarted(sdk_session=self.sdk_session or "", model=turn.start.settings.model)
        )
        async with asyncio.TaskGroup() as group:
            play = group.create_task(self._play(turn))
            stop = group.create_task(turn.wait_interrupted())
            await asyncio.wait({play, stop}, return_when=asyncio.FIRST_COMPLETED)
            play.cancel()
            stop.cancel()
        ended = interrupted_end(turn) if play.cancelled() else play.result()
        return ended.model_copy(update={"checkpoint": checkpoint})

    async def aclose(self) -> None:
        """Nothing runs beside a turn."""

    async def _play(self, turn: RunningTurn) -> TurnEnded:
        for step in self._script if self._script is not None else self._choose(turn.start):
            if ended := await step.play(turn, self):
                return ended
        return TurnEnded(
            state=TurnState.DONE,
            end_reason=EndReason.DONE,
            usage=Usage(input_tokens=10, output_tokens=turn.outbox.last_n),
        )

    def _remember(self, start: StartTurn) -> str:
        """Stand on the turn's base and add its prompt; the prompt's entry."""
        if (past := self._past(start)) is not None:
            self.sdk_session, self._memory = past
            self._transcripts.add(PartKey("", self.sdk_session), self._memory)
        assert self.sdk_session is not None
        is_added = start.restore_from is not None and start.base is not BaseKind.FRESH
        added = start.history[start.restore_from :] if is_added else ()
        new = [_entry(message_text(m)) for m in added if m.role == "user"]
        new.append(_entry(prompt_text(start)))
        self._memory += new
        self._transcripts.add(PartKey("", self.sdk_session), new)
        return str(self._memory[-1]["uuid"])

    def _past(self, start: StartTurn) -> tuple[str, list[Entry]] | None:
        """Another session and what it remembers; None to go on with ours."""
        session, memory = self.sdk_session, self._memory
        if session is None and start.base is not BaseKind.FRESH and start.transcript is not None:
            session = start.transcript.sdk_session
            memory = list(start.transcript.parts[0].entries)
            self._transcripts.adopt("", start.transcript)
        ids = [entry["uuid"] for entry in memory]
        match start.base:
            case BaseKind.CONTINUE if session is not None:
                return None if session == self.sdk_session else (session, memory)
            case BaseKind.REWIND if start.checkpoint in ids:
                return str(uuid.uuid4()), memory[: ids.index(start.checkpoint) + 1]
        said = [message_text(m) for m in start.history if m.role == "user"]
        return str(uuid.uuid4()), [_entry(text) for text in said]


def _entry(text: str) -> Entry:
    return {"type": "user", "uuid": str(uuid.uuid4()), "text": text}


def script_of(start: StartTurn) -> Script:
    """The script a prompt asks for by its first word; else the answer is `ok`."""
    words = prompt_text(start).split()
    make = AGENT_SCRIPTS.get(words[0]) if words else None
    return make(words) if make else [Say("ok")]


def interrupted_end(turn: RunningTurn) -> TurnEnded:
    """How a turn ends that was interrupted, by the reason."""
    match turn.interrupted:
        case InterruptReason.DEADLINE:
            error = TurnError(code=ErrorCode.TURN_TIMED_OUT, message="The turn took too long.")
            return TurnEnded(state=TurnState.FAILED, error=error)
        case InterruptReason.SHUTDOWN:
            error = TurnError(code=ErrorCode.SHUTTING_DOWN, message="The agent was shut down.")
            return TurnEnded(state=TurnState.INTERRUPTED, error=error)
        case _:
            return TurnEnded(state=TurnState.CANCELLED)


def prompt_text(start: StartTurn) -> str:
    """The text of the prompt, without images."""
    return " ".join(block.text for block in start.prompt if isinstance(block, TextBlock))


def message_text(message: HistoryMessage) -> str:
    """The text of an earlier message, without images."""
    return " ".join(block.text for block in message.content if isinstance(block, TextBlock))


def _after(word: str, words: list[str], *, default: float) -> float:
    """The number behind a word."""
    return float(words[words.index(word) + 1]) if word in words else default


class ScriptedAgent:
    """An agent server in this process, as an async context manager.

    `script` is played for every turn; without one each prompt chooses its own (`AGENT_SCRIPTS`, or
    what `choose` makes of it).
    """

    def __init__(
        self,
        socket: Path,
        script: Script | None = None,
        *,
        choose: Callable[[StartTurn], Script] | None = None,
    ) -> None:
        self.socket = socket
        self.transcripts = Transcripts()
        self.session = ScriptedSession(script, self.transcripts, choose=choose)
        self.died = asyncio.Event()
        self._server = LinkServer(
            self._open_session,
            transcripts=self.transcripts,
            agent_version=AGENT_VERSION,
            sdk_version=SDK_VERSION,
        )
        self.session.tell = self._server.tell
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(self._serve())
        await self._server.listening.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        await self._stack.__aexit__(kind, error, trace)

    def stop(self) -> None:
        """End it as a `Close` would; the context manager still has to be left."""
        self._server.close()

    async def _serve(self) -> None:
        try:
            await self._server.serve(self.socket)
        except* AgentDied:
            pass  # What the script wanted: the socket is gone and every link is cut.
        finally:
            self.died.set()

    async def _open_session(self, group: asyncio.TaskGroup) -> ScriptedSession:
        return self.session


class DyingAgent(ScriptedAgent):
    """Says a few words of its answer, then is gone without an end."""

    def __init__(self, socket: Path, *, last_words: str = "I feel a little ") -> None:
        super().__init__(socket, [Say(last_words), Die()])


class FloodingAgent(ScriptedAgent):
    """Talks as fast as it can, no matter who reads or not."""

    def __init__(self, socket: Path, *, count: int = 100_000, chars: int = 16) -> None:
        super().__init__(socket, [Deltas(count, chars=chars)])


class SilentAgent:
    """Accepts connections and never says a word, not even to a hello."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        server = await asyncio.start_unix_server(self._ignore, path=self.socket)
        self._stack.callback(server.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self.socket.unlink(missing_ok=True)

    @staticmethod
    async def _ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                pass  # Read, so that it is the answer that is missing and not the room.
        finally:
            writer.close()
