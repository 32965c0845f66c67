"""What is told over Redis outside the data path, on channel `agc:ctl:<worker>`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from infra.wire.base import Message, decode
from infra.wire.ids import ConversationKey, TurnId

CONTROL_MAX_BYTES = 64 * 1024


class CancelTurn(Message):
    """Interrupt this turn.

    Sent by: the cancel script. A hint: the flag in the turn's hash is the truth.
    """

    type: Literal["cancel"] = "cancel"
    turn: TurnId
    conversation: ConversationKey
    reason: str


class TurnWaits(Message):
    """A turn has come for a conversation you own.

    Sent by: the submit script, so that a warm conversation starts its turn without a queue between.
    A hint: the conversation's FIFO is the truth, and the sweepers look at it.
    """

    type: Literal["turn_waits"] = "turn_waits"
    conversation: ConversationKey
    turn: TurnId


class DrainWorker(Message):
    """Stop taking work and leave.

    Sent by: an operator. `retire`: stop the containers first, for no worker comes after this one.
    """

    type: Literal["drain"] = "drain"
    retire: bool = False


class StopSession(Message):
    """Stop this conversation's container, interrupting its turn; or remove all of it.

    Sent by: the stop and delete scripts, to the owner. A hint: the turn's cancel flag and the idle
    deadline, or the host's list of wipes, are the truth.
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
