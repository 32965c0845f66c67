"""The worker-agent protocol: lines over the Unix socket of a container.

The agent server listens; a worker of the host connects. One connection is active at a time: a
`Hello` with a higher or equal fence takes over and closes the previous connection; a lower fence is
refused. The agent survives its worker: it keeps a turn's frames until they are acknowledged, and
replays them from any number.

    worker -> agent   Hello · Prepare · StartTurn · Replay · Ack · Interrupt · TranscriptStored
                      DelegateDid · DelegateAnswered · Ping · Close
    agent -> worker   Welcome · Prepared · Refused · TranscriptAppend · AskDelegate · AgentTimes
                      McpServers · Pong
                      and frames (`infra.wire.frames`)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from infra.wire.agents.delegation import AskDelegate, DelegateAnswered, DelegateDid
from infra.wire.agents.permissions import Permissions
from infra.wire.agents.profile import MCP_SERVERS_MAX
from infra.wire.agents.sub_agent import SubAgent
from infra.wire.base import PROTOCOL_VERSION, Message, decode
from infra.wire.errors import ErrorCode
from infra.wire.ids import Fence, SaidSession, SaidTurn, TurnId, WorkerId
from infra.wire.mcp.secrets import AgentMcpServer, ServerSeen
from infra.wire.options import (
    NO_OPTIONS,
    NO_TURN_OPTIONS,
    ConversationOptions,
    TurnOptions,
)
from infra.wire.turns import ContentBlock, HistoryMessage

LINE_MAX_BYTES = 64 * 1024 * 1024
"""Longest line that an agent accepts (a prompt with images). The limits below are a worker's."""
GREETING_MAX_BYTES = 4 * 1024
"""Longest line of an agent up to and including its welcome."""
ANSWER_MAX_BYTES = 16 * 1024
"""Longest line of an agent that is neither a frame nor a `TranscriptAppend`."""
FRAME_MAX_BYTES = 2 * 1024 * 1024
"""Longest frame."""
TRANSCRIPT_LINE_MAX_BYTES = 33 * 1024 * 1024
"""Longest `TranscriptAppend` whose entries are stored: the longest session that the store keeps, in
one message. A longer one is skipped, and its session is no longer stored."""
TRANSCRIPT_HEAD = b'{"type":"transcript_append",'
"""The beginning of a `TranscriptAppend`. Workers recognise it by this, because they do not parse
it."""


class InterruptReason(StrEnum):
    """Why a turn is stopped. It decides how the turn ends."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"
    STOP = "stop"
    """The answer is complete for its client, which named where it stops. Only the agent says so."""
    LENGTH = "length"
    """The answer is as long as its client allows. Only the agent says so."""


class AgentSettings(Message):
    """Settings of the agent's session. Its container knows nothing else about the deployment."""

    model: str
    system_prompt: str | None = None
    is_prompt_added: bool = False
    """The system prompt stands behind Claude Code's own, instead of replacing it."""
    tools: tuple[str, ...]
    sub_agents: Mapping[str, SubAgent] = {}
    mcp: Mapping[str, AgentMcpServer] = {}
    """Its MCP servers by name."""
    skills: tuple[str, ...] = ()
    """Names of the skills in the bundle that its container has."""
    asks_questions: bool = False
    """The agent may end a turn with a question to its user."""
    delegates: Mapping[str, str] = {}
    """Agents that it may call, with their descriptions."""
    permissions: Permissions = Permissions()
    """What it may do without asking its user."""
    is_called: bool = False
    """Another agent asks for the turn. What it says approves nothing."""
    environment: Mapping[str, str] = {}
    """Variables for its tools, in addition to ours."""
    model_tiers: Mapping[str, str] = {}
    """The models for `haiku`, `sonnet` and the like in this deployment. The agent uses these names
    for sub-agents and small tasks."""
    max_turns: int | None = None
    max_thinking_tokens: int | None = None
    interrupt_grace_s: float = 5.0
    """Seconds that an interrupted turn may take to end before its CLI is killed."""
    buffer_max_bytes: int = 32 * 1024 * 1024
    """Limit of unacknowledged frames. Beyond it the agent joins deltas, then stops reading."""

    @property
    def restrictions(self) -> frozenset[str]:
        """What of this an agent has to know: one that skips it would do more than it may."""
        told = {f"permissions.{name}" for name in self.permissions.model_dump(exclude_none=True)}
        return frozenset(told | {"is_called"} if self.is_called else told)

    @property
    def spare_class(self) -> tuple[object, ...]:
        """What is fixed when a CLI starts. A spare serves the turns of its class."""
        return (
            self.tools,
            self.max_turns,
            self.max_thinking_tokens,
            self.is_prompt_added,
            tuple(sorted((name, one.model_dump_json()) for name, one in self.mcp.items())),
            self.skills,
            self.permissions.is_free,
            tuple(sorted(self.model_tiers.items())),
            tuple(sorted(self.environment.items())),
            tuple(sorted((name, one.model_dump_json()) for name, one in self.sub_agents.items())),
        )


RESTRICTIONS = ("is_called", *(f"permissions.{name}" for name in Permissions.model_fields))
"""All that this version knows. Whatever a later field forbids an agent is to be named here, too."""


class Hello(Message):
    """The first line of every connection. The agent answers `Welcome`, or `Refused` and closes."""

    type: Literal["hello"] = "hello"
    version: int = PROTOCOL_VERSION
    worker: WorkerId
    fence: Fence
    alone_s: float = 3600.0
    """An agent that hears nothing from a worker for this long exits, because nobody else would stop
    it."""


class BaseKind(StrEnum):
    """Which memory a turn continues (decided by `infra.wire.history.decision`)."""

    CONTINUE = "continue"
    """The session as it is; if there is none, `transcript`, otherwise `history`."""
    REWIND = "rewind"
    """A fork of the session that ends at `checkpoint`; if that fails, `history`."""
    FRESH = "fresh"
    """A new session with only `history`."""


class TranscriptPart(Message):
    """The stored entries of one transcript: the main one, or a sub-agent's (`subpath`)."""

    subpath: str | None = None
    entries: tuple[dict[str, Any], ...]
    """Opaque to us. Entries with a `uuid` are deduplicated by it."""


class Transcript(Message):
    """Everything stored of a session, for an agent that has to resume it."""

    sdk_session: str
    parts: tuple[TranscriptPart, ...]


class StartTurn(Message):
    """Run this turn. Idempotent: if the agent already runs it or has just ended it, nothing
    happens.

    `base` says which memory it continues; `history` and `transcript` are included if it may need
    them. `restore_from` is an index into `history`: the messages from there on are not in the
    base's memory and are replayed into it before the prompt. `options` are the conversation's,
    `turn_options` this turn's.
    `settings` may differ from those of the previous turn; the agent then changes or reopens its
    session itself.
    """

    type: Literal["start_turn"] = "start_turn"
    turn: TurnId
    settings: AgentSettings
    options: ConversationOptions = NO_OPTIONS
    turn_options: TurnOptions = NO_TURN_OPTIONS
    base: BaseKind = BaseKind.CONTINUE
    checkpoint: str | None = None
    transcript: Transcript | None = None
    history: tuple[HistoryMessage, ...] = ()
    restore_from: int | None = None
    prompt: tuple[ContentBlock, ...]
    notices: tuple[str, ...] = ()
    """What its user wants to know about it, told when it starts."""


class Prepare(Message):
    """Start a CLI with these settings for a turn that is not known yet, and answer `Prepared`, or
    `Refused` if it does not start.

    For a spare, before its first turn. A turn whose settings differ changes or replaces the CLI.
    """

    type: Literal["prepare"] = "prepare"
    settings: AgentSettings


class Replay(Message):
    """Send the turn's frames after number `after`, then continue live."""

    type: Literal["replay"] = "replay"
    turn: TurnId
    after: int = 0


class Ack(Message):
    """Frames up to `n` are in the turn log; the agent may drop them.

    Acknowledging the end frees the turn.
    """

    type: Literal["ack"] = "ack"
    turn: TurnId
    n: int


class Interrupt(Message):
    """Stop the turn.

    It still ends with one `end` event, shortly after `interrupt_grace_s` at the latest.
    """

    type: Literal["interrupt"] = "interrupt"
    turn: TurnId
    reason: InterruptReason


class TranscriptStored(Message):
    """The entries of `TranscriptAppend` number `seq` are stored; the SDK may continue."""

    type: Literal["transcript_stored"] = "transcript_stored"
    seq: int


class Ping(Message):
    """Are you alive? The agent answers at once."""

    type: Literal["ping"] = "ping"


class Close(Message):
    """End the CLI, then exit."""

    type: Literal["close"] = "close"


class Welcome(Message):
    """The agent's answer to `Hello`: its identity and state.

    `turn` is the turn that it runs or whose end is not acknowledged yet, `last_n` that turn's
    newest number. `restores`: it supports `StartTurn.restore_from`. `knows`: the restrictions that
    it obeys (`AgentSettings.restrictions`). A container keeps its version, so it may know fewer.
    """

    type: Literal["welcome"] = "welcome"
    version: int = PROTOCOL_VERSION
    agent_version: str
    sdk_version: str
    sdk_session: SaidSession | None = None
    turn: SaidTurn | None = None
    last_n: Annotated[int, Field(ge=0, lt=2**53)] = 0
    restores: bool = False
    knows: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=64)] = ()


class Prepared(Message):
    """The CLI that `Prepare` asked for is connected."""

    type: Literal["prepared"] = "prepared"


class Refused(Message):
    """A command was not carried out. After a refused `Hello` the connection is closed."""

    type: Literal["refused"] = "refused"
    code: ErrorCode
    message: str
    turn: SaidTurn | None = None


class TranscriptAppend(Message):
    """New transcript entries of a session, as the SDK mirrors them. The worker answers
    `TranscriptStored`.

    `seq` is unique per agent process. The agent sends it again on a new link if it was not
    answered. Storing entries twice is harmless, because they are deduplicated by uuid.
    """

    type: Literal["transcript_append"] = "transcript_append"
    seq: int
    sdk_session: str
    part: TranscriptPart


class Launch(Message):
    """The settings of the turn for which a container is started, in its launch file.

    With them the agent starts its CLI before the turn arrives. If the turn then needs another one,
    the agent ends this one. It contains no secret.
    """

    type: Literal["launch"] = "launch"
    settings: AgentSettings


UnixMs = Annotated[int, Field(ge=0, lt=2**53)]


class AgentTimes(Message):
    """When the agent reached the phases of its own start, in Unix ms. Only for the log.

    Sent once, when its first CLI is connected, to the worker that is linked then.
    """

    type: Literal["agent_times"] = "agent_times"
    python_ms: UnixMs
    """Its first line ran."""
    listening_ms: UnixMs | None = None
    cli_spawned_ms: UnixMs | None = None
    cli_connected_ms: UnixMs | None = None


class McpServers(Message):
    """How the agent's MCP servers are, when a turn begins. For operators."""

    type: Literal["mcp_servers"] = "mcp_servers"
    servers: Annotated[tuple[ServerSeen, ...], Field(max_length=MCP_SERVERS_MAX)]


class Pong(Message):
    """Alive."""

    type: Literal["pong"] = "pong"


Command = Annotated[
    Hello
    | Prepare
    | StartTurn
    | Replay
    | Ack
    | Interrupt
    | TranscriptStored
    | DelegateDid
    | DelegateAnswered
    | Ping
    | Close,
    Field(discriminator="type"),
]
Answer = Annotated[
    Welcome | Prepared | Refused | TranscriptAppend | AskDelegate | AgentTimes | McpServers | Pong,
    Field(discriminator="type"),
]
_LAUNCH: TypeAdapter[Launch] = TypeAdapter(Launch)
_COMMAND: TypeAdapter[Command] = TypeAdapter(Command)
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


def decode_command(line: bytes) -> Command:
    """Decode a message from a worker. Raises `UnknownMessage` or `MalformedMessage`."""
    command: Command = decode(_COMMAND, line)
    return command


def decode_answer(line: bytes) -> Answer:
    """Decode a message from an agent that is not a frame. Raises `UnknownMessage` or
    `MalformedMessage`."""
    answer: Answer = decode(_ANSWER, line, max_bytes=TRANSCRIPT_LINE_MAX_BYTES)
    return answer


def decode_launch(raw: bytes) -> Launch:
    """Decode a launch file. Raises `MalformedMessage`."""
    launch: Launch = decode(_LAUNCH, raw)
    return launch
