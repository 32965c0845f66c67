"""On what memory a turn was started: written with its start, carried out by its finish.

The decision itself is pure (`infra.wire.history.decide`). It is put on record in the turn's hash
before the agent may hear of the turn, so whoever adopts the turn gives it to the agent again on the
same base. The conversation's list of accepted prompts changes only when the turn ends.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import TypeAdapter

from infra.wire.base import Message, decode
from infra.wire.link import BaseKind


class TurnBase(Message):
    """What a turn makes of the agent's memory.

    `keep` accepted prompts stay (all of them to continue); `before` are digests of prompts that
    come with a sent history; `digest` is the prompt's own.
    """

    kind: BaseKind
    keep: int = 0
    checkpoint: str | None = None
    before: tuple[str, ...] = ()
    digest: str


class Memory(StrEnum):
    """What the agent made of a turn that ends."""

    NOTHING = "nothing"
    """It never got the turn: its memory is what it was."""
    UNKNOWN = "unknown"
    """It got the turn and did not tell the end."""
    TOLD = "told"
    """It told the end itself."""


_BASE: TypeAdapter[TurnBase] = TypeAdapter(TurnBase)


def decode_base(raw: str) -> TurnBase:
    """Raises `MalformedMessage`."""
    base: TurnBase = decode(_BASE, raw)
    return base
