"""Messages over Redis outside the data path, on channel `agc:ctl:<worker>`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from infra.wire.base import Message, decode
from infra.wire.ids import ConversationKey, Fence, TurnId

CONTROL_MAX_BYTES = 64 * 1024


class CancelTurn(Message):
    """Interrupt this turn.

    Sent by: the cancel script. A hint: the flag in the turn's hash is authoritative.
    """

    type: Literal["cancel"] = "cancel"
    turn: TurnId
    conversation: ConversationKey
    reason: str


class BegunTurn(Message):
    """A turn that the submit script has begun for the conversation's owner: what the owner's claim
    would answer, as Redis has it.

    `fence` is the owner's. `serial` counts such turns of the conversation, so that an old message
    is known for one. `known` and `newest` are the accepted prompts, `record` has the names and
    values of the turn's hash, in turn.
    """

    fence: Fence
    serial: int
    known: int
    newest: str
    record: tuple[str, ...]
    request: str
    host: str = ""
    sdk_session: str = ""
    is_resending: str = ""
    transcript_full: str = ""


class TurnWaits(Message):
    """A turn has arrived for a conversation that you own.

    Sent by: the submit script, so that a warm conversation starts its turn without going through a
    queue, and a sweep, if nothing was logged of a turn that was begun. A hint: the conversation's
    record and FIFO are authoritative, and the sweepers check them. `begun`: it is yours already.
    """

    type: Literal["turn_waits"] = "turn_waits"
    conversation: ConversationKey
    turn: TurnId
    begun: BegunTurn | None = None


class DrainWorker(Message):
    """Take no new work and leave.

    Sent by: an operator. `retire`: stop the containers first, because no other worker will follow.
    """

    type: Literal["drain"] = "drain"
    retire: bool = False


class StopSession(Message):
    """Stop this conversation's container and interrupt its turn, or delete all of it.

    Sent by: the stop and delete scripts, to the owner. A hint: the turn's cancel flag and the idle
    deadline, or the host's list of wipes, are authoritative.
    """

    type: Literal["stop_session"] = "stop_session"
    conversation: ConversationKey
    is_deleted: bool = False


Control = Annotated[CancelTurn | TurnWaits | DrainWorker | StopSession, Field(discriminator="type")]
_CONTROL: TypeAdapter[Control] = TypeAdapter(Control)


def decode_control(raw: bytes) -> Control:
    """Raises `UnknownMessage` or `MalformedMessage`."""
    control: Control = decode(_CONTROL, raw, max_bytes=CONTROL_MAX_BYTES)
    return control
