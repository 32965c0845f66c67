"""Which past the next turn stands on, decided from what the client sent. Pure.

OpenAI clients resend everything, and what they send is the truth; the agent's memory is a cache of
it. User messages are compared whole, by digests. Answers come back trimmed or cut, so of them only
the head is compared, and only a clear difference counts (`infra.wire.answers`). The conversation
remembers both for each prompt that it has accepted, and `decide` says how the agent's memory
becomes what the client sees.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

from infra.wire.answers import agree
from infra.wire.base import Message
from infra.wire.ids import TurnId
from infra.wire.turns import ContentBlock, TextBlock

TAILS_MAX = 16
"""So many lines behind an injected text are taken for the beginning of what the user wrote."""

INJECTED = re.compile(r"<context>|<source[ >]")
"""Begins what a chat program found for a message."""

_INJECTED_END = re.compile(r"</context>|</source>")
_LINE = re.compile(r"^(?=.*\S)", re.MULTILINE)
_SLICE_CHARS = 256 * 1024


class Accepted(Message):
    """One prompt in the agent's memory.

    `checkpoint` is the transcript entry its turn ended at; None where the SDK cannot go back to it
    (the prompt came with a sent history, or its turn left no entry). `heads` is how its answer
    begins; None where nobody knows. `tails` are digests under which it may come back.
    """

    digest: str
    turn: TurnId
    checkpoint: str | None = None
    heads: tuple[str, ...] | None = None
    tails: tuple[str, ...] = ()

    def is_sent_as(self, sent: str) -> bool:
        """Whether a sent message is this prompt."""
        return sent == self.digest or sent in self.tails


class Continue(Message):
    """The agent's memory is what the client sees, or the beginning of it: add what it lacks and
    the prompt. `restores`: it lacks something."""

    restores: bool = False


class Rewind(Message):
    """Go back to the end of an earlier turn, then add what is said differently since, and the
    prompt. `keep` prompts stay. `restores`: there is something between them and the prompt."""

    keep: int
    checkpoint: str
    restores: bool = False


class Fresh(Message):
    """Begin a new SDK session with the sent history (none: from nothing)."""


Base = Continue | Rewind | Fresh


def digest(content: Iterable[ContentBlock]) -> str:
    """16 hex digits of a user message; blanks at its ends or in a row do not count."""
    total = hashlib.sha256()
    for block in content:
        if isinstance(block, TextBlock):
            total.update(b"t")
            for piece in _squeezed(block.text):
                total.update(piece)
        else:
            total.update(block.type[:1].encode() + hashlib.sha256(block.data.encode()).digest())
        total.update(b"\0")
    return total.hexdigest()[:16]


def tails(content: Sequence[ContentBlock]) -> tuple[str, ...]:
    """Digests of what a user message may be without the beginning a chat program put before it.

    Open WebUI puts what it found in an attached file before the newest message only; later it sends
    the message as it was written. What was written begins with one of the lines behind the found
    text, most likely the first. Empty for a message that holds no such text.
    """
    for i, block in reversed(list(enumerate(content))):
        if not isinstance(block, TextBlock):
            continue
        if found := list(_INJECTED_END.finditer(block.text)):
            rest = block.text[found[-1].end() :]
            begins = [match.start() for match in _LINE.finditer(rest)][:TAILS_MAX]
            parts = ([*content[:i], TextBlock(text=rest[at:]), *content[i + 1 :]] for at in begins)
            return tuple(map(digest, parts))
    return ()


def _squeezed(text: str) -> Iterator[bytes]:
    """The words with one blank between. Slice by slice: a long text must not hold its reader up."""
    has_begun = is_apart = False
    for start in range(0, len(text), _SLICE_CHARS):
        piece = text[start : start + _SLICE_CHARS]
        words = piece.split()
        if not words:
            is_apart = True
            continue
        if has_begun and (is_apart or piece[0].isspace()):
            yield b" "
        yield " ".join(words).encode("utf-8", "replace")
        has_begun, is_apart = True, piece[-1].isspace()


def decide(
    accepted: Sequence[Accepted],
    sent: Sequence[str],
    *,
    is_thin: bool,
    resends: bool,
    answers: Sequence[str] = (),
) -> Base:
    """The base of a turn whose sent user messages are `sent`, the prompt last.

    `answers` holds the heads of the sent answers, one for each message but the prompt; empty where
    they are not known. `is_thin`: the request may come from a client that sends only what is new.
    `resends`: this client has sent history before, so a lone message under a known id edits the
    first one.
    """
    before = sent[:-1]
    if is_thin and not resends and _is_next(accepted, sent):
        return Continue()
    keep = _common(accepted, before, answers)
    if keep == len(accepted) and (keep or not before):
        return Continue(restores=keep < len(before))
    # What cannot be gone back to is restored from what was sent, as what follows it is.
    for kept in range(keep, 0, -1):
        if checkpoint := accepted[kept - 1].checkpoint:
            return Rewind(keep=kept, checkpoint=checkpoint, restores=kept < len(before))
    return Fresh()


def _is_next(accepted: Sequence[Accepted], sent: Sequence[str]) -> bool:
    """Whether a thin client says something new.

    The same first message once more redoes it, and so does one after a first message of which it is
    not known whether the agent took it (''). Later the client has shown that it never sends
    history, and what it says twice it means twice.
    """
    if len(sent) != 1:
        return False
    return len(accepted) > 1 or not accepted or accepted[0].digest not in ("", sent[0])


def _common(accepted: Sequence[Accepted], before: Sequence[str], answers: Sequence[str]) -> int:
    """How many turns, prompt and answer, both sides know alike from the beginning."""
    shown = [*answers, *[None] * len(before)]
    for i, (known, sent, answer) in enumerate(zip(accepted, before, shown, strict=False)):
        if not known.is_sent_as(sent) or not agree(known.heads, answer):
            return i
    return min(len(accepted), len(before))
