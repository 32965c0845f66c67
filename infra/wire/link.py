"""The worker-agent protocol: lines over the Unix socket of a container.

The agent server listens; a worker of the host connects. One connection is active at a time: a
`Hello` with a higher or equal fence takes over and closes the one before, a lower fence is refused.
The agent survives its worker: it keeps a turn's frames until they are acknowledged and replays from
any number.

    worker -> agent   Hello · StartTurn · Replay · Ack · Interrupt · TranscriptStored · Ping · Close
    agent -> worker   Welcome · Refused · TranscriptAppend · Pong · and frames (`infra.wire.frames`)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from infra.wire.base import PROTOCOL_VERSION, Message, decode
from infra.wire.errors import ErrorCode
from infra.wire.ids import Fence, SaidSession, SaidTurn, TurnId, WorkerId
from infra.wire.turns import ContentBlock, HistoryMessage

LINE_MAX_BYTES = 64 * 1024 * 1024
"""Longest line an agent accepts (a prompt with images). A worker accepts what follows."""
GREETING_MAX_BYTES = 4 * 1024
"""Longest line of an agent before its welcome, the welcome included."""
ANSWER_MAX_BYTES = 16 * 1024
"""Longest line of an agent that is neither a frame nor a `TranscriptAppend`."""
FRAME_MAX_BYTES = 2 * 1024 * 1024
"""Longest frame."""
TRANSCRIPT_LINE_MAX_BYTES = 33 * 1024 * 1024
"""Longest `TranscriptAppend` whose entries are kept: a session as long as a store keeps any, in one
message. A longer one is read past, and its session is given up."""
TRANSCRIPT_HEAD = b'{"type":"transcript_append",'
"""How a `TranscriptAppend` begins: it is told by this, since a worker does not parse it."""


class InterruptReason(StrEnum):
    """Why a turn is being stopped; decides how it ends."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"


class AgentSettings(Message):
    """How the agent's session is to be set up; its container knows nothing else about the
    deployment.
    """

    model: str
    system_prompt: str | None = None
    tools: tuple[str, ...]
    model_tiers: Mapping[str, str] = {}
    """What `haiku`, `sonnet` and the like stand for in this deployment: the agent asks for
    sub-agents and small tasks by these."""
    max_turns: int | None = None
    max_thinking_tokens: int | None = None
    interrupt_grace_s: float = 5.0
    """How long an interrupted turn may take to end before its CLI is killed."""
    buffer_max_bytes: int = 32 * 1024 * 1024
    """Bound on frames not yet acknowledged; beyond it deltas are joined, then reading stops."""


class Hello(Message):
    """First line of every connection. The agent answers `Welcome` or `Refused` and closes."""

    type: Literal["hello"] = "hello"
    version: int = PROTOCOL_VERSION
    worker: WorkerId
    fence: Fence
    alone_s: float = 3600.0
    """An agent that hears nothing from a worker for this long ends: nobody is left to stop it."""


class BaseKind(StrEnum):
    """What memory a turn stands on (decided by `infra.wire.history`)."""

    CONTINUE = "continue"
    """The session as it is; where there is none, `transcript`, else `history`."""
    REWIND = "rewind"
    """A fork of the session that ends at `checkpoint`; where that fails, `history`."""
    FRESH = "fresh"
    """A new session that knows `history` and nothing else."""


class TranscriptPart(Message):
    """The stored entries of one transcript: the main one, or a sub-agent's (`subpath`)."""

    subpath: str | None = None
    entries: tuple[dict[str, Any], ...]
    """Opaque to us; deduplicated by their `uuid` where they have one."""


class Transcript(Message):
    """All that the store has of a session, for an agent that has to resume it."""

    sdk_session: str
    parts: tuple[TranscriptPart, ...]


class StartTurn(Message):
    """Run this turn. Idempotent: for the turn it already runs or has just ended, nothing happens.

    `base` says what memory it stands on; `history` and `transcript` are given where it may need
    them. `restore_from` is an index into `history`: what stands there and behind it is not in the
    memory of the base; it is said again into it, before the prompt. `settings` may differ from the
    turn before, the agent then changes or reopens its session by itself.
    """

    type: Literal["start_turn"] = "start_turn"
    turn: TurnId
    settings: AgentSettings
    base: BaseKind = BaseKind.CONTINUE
    checkpoint: str | None = None
    transcript: Transcript | None = None
    history: tuple[HistoryMessage, ...] = ()
    restore_from: int | None = None
    prompt: tuple[ContentBlock, ...]


class Replay(Message):
    """Send the turn's frames after number `after`, then go on live."""

    type: Literal["replay"] = "replay"
    turn: TurnId
    after: int = 0


class Ack(Message):
    """Frames up to `n` are in the turn log; the agent may forget them.

    The end's ack frees the turn.
    """

    type: Literal["ack"] = "ack"
    turn: TurnId
    n: int


class Interrupt(Message):
    """Stop the turn.

    It still ends with one `end` event, within `interrupt_grace_s` and a little.
    """

    type: Literal["interrupt"] = "interrupt"
    turn: TurnId
    reason: InterruptReason


class TranscriptStored(Message):
    """The entries of `TranscriptAppend` number `seq` are stored; the SDK may go on."""

    type: Literal["transcript_stored"] = "transcript_stored"
    seq: int


class Ping(Message):
    """Are you alive? Answered at once."""

    type: Literal["ping"] = "ping"


class Close(Message):
    """Leave: end the CLI, then the process."""

    type: Literal["close"] = "close"


class Welcome(Message):
    """The agent's answer to `Hello`: who it is and where it stands.

    `turn` is the turn it runs or whose end is not yet acknowledged, `last_n` its newest number.
    `restores`: it knows `StartTurn.restore_from`.
    """

    type: Literal["welcome"] = "welcome"
    version: int = PROTOCOL_VERSION
    agent_version: str
    sdk_version: str
    sdk_session: SaidSession | None = None
    turn: SaidTurn | None = None
    last_n: Annotated[int, Field(ge=0, lt=2**53)] = 0
    restores: bool = False


class Refused(Message):
    """A command was not carried out. After a refused `Hello` the connection is closed."""

    type: Literal["refused"] = "refused"
    code: ErrorCode
    message: str
    turn: SaidTurn | None = None


class TranscriptAppend(Message):
    """New transcript entries of a session, as the SDK mirrors them. Answered `TranscriptStored`.

    `seq` is unique per agent process. Sent again on a new link when not answered; storing twice is
    harmless (entries are deduplicated by uuid).
    """

    type: Literal["transcript_append"] = "transcript_append"
    seq: int
    sdk_session: str
    part: TranscriptPart


class Pong(Message):
    """Alive."""

    type: Literal["pong"] = "pong"


Command = Annotated[
    Hello | StartTurn | Replay | Ack | Interrupt | TranscriptStored | Ping | Close,
    Field(discriminator="type"),
]
Answer = Annotated[Welcome | Refused | TranscriptAppend | Pong, Field(discriminator="type")]
_COMMAND: TypeAdapter[Command] = TypeAdapter(Command)
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


def decode_command(line: bytes) -> Command:
    """What a worker says. Raises `UnknownMessage` or `MalformedMessage`."""
    command: Command = decode(_COMMAND, line)
    return command


def decode_answer(line: bytes) -> Answer:
    """What an agent says beside frames. Raises `UnknownMessage` or `MalformedMessage`."""
    answer: Answer = decode(_ANSWER, line, max_bytes=TRANSCRIPT_LINE_MAX_BYTES)
    return answer
