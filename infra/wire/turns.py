"""What is asked of an agent: one turn, already freed from OpenAI's shapes.

Made by the API from the request, kept in Redis until the turn has ended, read by the worker that
claims it. Holds no key: that travels sealed, in the turn's hash.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from infra.wire.base import Message, decode
from infra.wire.ids import ConversationKey, TenantId, TurnId


class OnDisconnect(StrEnum):
    """What a turn does when its client hangs up."""

    CANCEL = "cancel"
    CONTINUE = "continue"


class Lane(StrEnum):
    """Which way a turn takes through a worker."""

    AGENT = "agent"
    """A conversation's agent, in its container, one turn at a time."""
    SIDE = "side"
    """One model call without tools, container or memory: titles, tags, follow-ups."""


class TextBlock(Message):
    """Plain text."""

    type: Literal["text"] = "text"
    text: str


class ImageBlock(Message):
    """An image sent inline. URLs are never fetched, so there is no other form."""

    type: Literal["image"] = "image"
    media_type: str
    data: str
    """Base64."""


class DocumentBlock(Message):
    """A document sent inline (PDF)."""

    type: Literal["document"] = "document"
    media_type: str
    data: str
    """Base64."""
    filename: str | None = None


ContentBlock = Annotated[TextBlock | ImageBlock | DocumentBlock, Field(discriminator="type")]


class HistoryMessage(Message):
    """One earlier message of the conversation, as the client sent it."""

    role: Literal["user", "assistant"]
    content: tuple[ContentBlock, ...]


class TurnRequest(Message):
    """One turn as the worker gets it.

    `system_prompt` is the client's system and developer text, joined; `history` all messages before
    the prompt, used where the agent's memory is not what the client sees; `prompt` what the user
    said now. `sent` holds the digests (`infra.wire.history`) of all user messages, the prompt last.
    For each of them but the last, `begins` is where in `history` it begins, and `answers` the head
    of the answer it got (`infra.wire.answers`). `tails` are digests under which the prompt may come
    back (`infra.wire.history.tails`).
    """

    turn: TurnId
    conversation: ConversationKey
    tenant: TenantId
    model: str
    system_prompt: str | None = None
    history: tuple[HistoryMessage, ...] = ()
    prompt: tuple[ContentBlock, ...]
    deadline_s: float
    """Seconds the turn may run, from its claim."""
    idle_timeout_s: float
    """Seconds the conversation stays warm after the turn."""
    lane: Lane = Lane.AGENT
    sent: tuple[str, ...] = ()
    begins: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()
    is_thin: bool = False
    """The client may be one that sends only what is new, and leaves the memory to us."""
    max_tokens: int | None = None
    """Bound of the answer, for the side lane."""
    profile: str | None = None
    """Egress profile that was asked for; None: the one the conversation has, if any."""


_REQUEST: TypeAdapter[TurnRequest] = TypeAdapter(TurnRequest)


def decode_turn_request(raw: bytes | str) -> TurnRequest:
    """Raises `MalformedMessage`."""
    request: TurnRequest = decode(_REQUEST, raw)
    return request
