"""Which past the next turn stands on, decided from what the client sent (D7). Pure.

OpenAI clients resend everything, and what they send is the truth; the agent's memory is a cache of
it. Only *user* messages are compared: assistant text comes back trimmed, cut or summarised. The API
turns the sent user messages into digests, the conversation remembers the digests it has accepted,
and `decide` says how the agent's memory becomes what the client sees.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from pydantic import TypeAdapter

from infra.wire.base import Message, decode
from infra.wire.ids import TurnId
from infra.wire.turns import ContentBlock, TextBlock

_BLANKS = re.compile(r"\s+")


class Accepted(Message):
    """One prompt in the agent's memory.

    `checkpoint` is the transcript entry its turn ended at; None where the SDK cannot go back to it
    (the prompt came with a sent history, or its turn left no entry).
    """

    digest: str
    turn: TurnId
    checkpoint: str | None = None


class Continue(Message):
    """The agent's memory is what the client sees: add the prompt."""


class Rewind(Message):
    """Go back to the end of an earlier turn, then add the prompt. `keep` prompts stay."""

    keep: int
    checkpoint: str


class Fresh(Message):
    """Begin a new SDK session with the sent history (none: from nothing)."""


Base = Continue | Rewind | Fresh


def digest(content: Iterable[ContentBlock]) -> str:
    """16 hex digits of a user message; blanks at its ends or in a row do not count."""
    total = hashlib.sha256()
    for block in content:
        if isinstance(block, TextBlock):
            total.update(b"t" + _BLANKS.sub(" ", block.text.strip()).encode("utf-8", "replace"))
        else:
            total.update(block.type[:1].encode() + hashlib.sha256(block.data.encode()).digest())
        total.update(b"\0")
    return total.hexdigest()[:16]


def decide(
    accepted: Sequence[Accepted], sent: Sequence[str], *, is_thin: bool, resends: bool
) -> Base:
    """The base of a turn whose sent user messages are `sent`, the prompt last.

    `is_thin`: the request may come from a client that sends only what is new. `resends`: this
    client has sent history before, so a lone message under a known id edits the first one.
    """
    known, before = [a.digest for a in accepted], list(sent[:-1])
    if known == before:
        return Continue()
    # The same first message once more redoes it, and so does one after a first message of which
    # it is not known whether the agent took it (''). Later the client has shown that it never
    # sends history, and what it says twice it means twice.
    is_new = len(sent) == 1 and (len(known) > 1 or known[0] not in ("", sent[0]))
    if is_thin and not resends and is_new:
        return Continue()
    keep = len(before)
    if 0 < keep < len(known) and known[:keep] == before:
        checkpoint = accepted[keep - 1].checkpoint
        if checkpoint is not None:
            return Rewind(keep=keep, checkpoint=checkpoint)
    return Fresh()


_ACCEPTED: TypeAdapter[Accepted] = TypeAdapter(Accepted)


def decode_accepted(raw: bytes) -> Accepted:
    """Raises `MalformedMessage`."""
    accepted: Accepted = decode(_ACCEPTED, raw)
    return accepted
