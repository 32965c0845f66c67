"""What is told over Redis outside the data path, on channel `agc:ctl:<worker>`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from infra.wire.base import Message, decode
from infra.wire.ids import ConversationKey, TurnId


class CancelTurn(Message):
    """Interrupt this turn.

    Sent by: the cancel script. A hint: the flag in the turn's hash is the truth.
    """

    type: Literal["cancel"] = "cancel"
    turn: TurnId
    conversation: ConversationKey
    reason: str


class Drain(Message):
    """Stop taking work. Sent by: an operator."""

    type: Literal["drain"] = "drain"


Control = Annotated[CancelTurn | Drain, Field(discriminator="type")]
_CONTROL: TypeAdapter[Control] = TypeAdapter(Control)


def decode_control(raw: bytes) -> Control:
    """Raises `UnknownMessage` or `MalformedMessage`."""
    control: Control = decode(_CONTROL, raw)
    return control
