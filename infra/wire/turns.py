"""What an agent is asked to do: one turn, independent of OpenAI's format.

The API creates it from the request, Redis keeps it until the turn has ended, and the worker that
claims the turn reads it. It contains no key: the key travels sealed, in the turn's hash.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from infra.wire.agents.delegation import Delegation
from infra.wire.agents.ref import AgentRef
from infra.wire.base import Message, decode
from infra.wire.ids import ConversationKey, FileId, TenantId, TurnId
from infra.wire.options import (
    NO_OPTIONS,
    NO_TURN_OPTIONS,
    ConversationOptions,
    TurnOptions,
)


class OnDisconnect(StrEnum):
    """What happens to a turn when its client disconnects."""

    CANCEL = "cancel"
    CONTINUE = "continue"


class Lane(StrEnum):
    """How a worker runs a turn."""

    AGENT = "agent"
    """A conversation's agent, in its container, one turn at a time."""
    SIDE = "side"
    """One model call without tools, container or memory: titles, tags, follow-ups."""


class TextBlock(Message):
    """Plain text."""

    type: Literal["text"] = "text"
    text: str


class ImageBlock(Message):
    """An inline image, of a type that models see."""

    type: Literal["image"] = "image"
    media_type: str
    data: str
    """Base64."""
    filename: str | None = None


class DocumentBlock(Message):
    """An inline document (PDF)."""

    type: Literal["document"] = "document"
    media_type: str
    data: str
    """Base64."""
    filename: str | None = None


class CallBlock(Message):
    """The agent's call of a client's function, in an answer."""

    type: Literal["call"] = "call"
    id: str = ""
    """As the client knows it; empty in the older form, which has none."""
    name: str
    arguments: str
    """A JSON object."""


class ResultBlock(Message):
    """What a client's function returned, in a message of the client's."""

    type: Literal["result"] = "result"
    call: str = ""
    """The id of the call that it answers; empty in the older form."""
    name: str = ""
    """The function's name, if the client sends it."""
    content: tuple[Annotated[TextBlock | ImageBlock, Field(discriminator="type")], ...] = ()


class FileBlock(Message):
    """A file of any type. Its bytes are here (`data`), in the file store (`file` and `store`), or
    somewhere on the internet (`url`).

    The worker puts it into the workspace, and what the model can read in its place. Only one with a
    URL goes on to the agent, which fetches it through its egress.
    """

    type: Literal["file"] = "file"
    media_type: str
    """As its sender says; may be empty, and wrong."""
    bytes: int
    digest: str
    """SHA-256 of its content, or of its URL; 64 hex digits."""
    filename: str | None = None
    """As its sender calls it. Never used as a path."""
    data: str | None = None
    """Base64."""
    file: FileId | None = None
    store: str | None = None
    """The identity of the file store that has it."""
    url: str | None = None
    """http or https, in ASCII."""


ContentBlock = Annotated[
    TextBlock | ImageBlock | DocumentBlock | FileBlock | CallBlock | ResultBlock,
    Field(discriminator="type"),
]


class HistoryMessage(Message):
    """One earlier message of the conversation, as the client sent it."""

    role: Literal["user", "assistant"]
    content: tuple[ContentBlock, ...]


class TurnRequest(Message):
    """One turn, as the worker receives it.

    `system_prompt` is the client's system and developer text, joined. `history` has all messages
    before the prompt; it is used if the agent's memory differs from what the client sees. `prompt`
    is the new user message. `sent` has the digests (`infra.wire.history.decision`) of all user
    messages, the prompt last. For each of them except the last, `begins` is the index in `history`
    where it begins, and `answers` the head of its answer (`infra.wire.history.answers`). `tails`
    are digests under which the prompt may come back (`infra.wire.history.decision.tails`).
    """

    turn: TurnId
    conversation: ConversationKey
    tenant: TenantId
    model: str
    system_prompt: str | None = None
    history: tuple[HistoryMessage, ...] = ()
    prompt: tuple[ContentBlock, ...]
    deadline_s: float
    """Seconds that the turn may run, from its claim."""
    idle_timeout_s: float
    """Seconds that the conversation stays warm after the turn."""
    lane: Lane = Lane.AGENT
    sent: tuple[str, ...] = ()
    begins: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()
    is_thin: bool = False
    """The client may be one that sends only its new message."""
    agent: AgentRef | None = None
    """The agent that the client picked; None for the usual one."""
    delegation: Delegation | None = None
    """What its agent may ask of other agents; None if there are none for it."""
    turn_options: TurnOptions = NO_TURN_OPTIONS
    """What the client chooses for this turn alone."""
    options: ConversationOptions = NO_OPTIONS
    """What the client chooses for its conversation. Once claimed, the worker finds the choices of
    before filled in."""


_REQUEST: TypeAdapter[TurnRequest] = TypeAdapter(TurnRequest)


def decode_turn_request(raw: bytes | str) -> TurnRequest:
    """Raises `MalformedMessage`."""
    request: TurnRequest = decode(_REQUEST, raw)
    return request
