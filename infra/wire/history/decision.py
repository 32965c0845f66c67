"""Decides which memory the next turn continues, from what the client sent. Pure.

OpenAI clients resend the whole conversation, and what they send is authoritative; the agent's
memory is a cache of it. User messages are compared as a whole, by digest. Answers come back trimmed
or cut, so only their heads are compared, and only a clear difference counts
(`infra.wire.history.answers`). The conversation stores both for every prompt that it has accepted,
and `decide` says how to make the agent's memory match what the client sees.

A client that asks the agent to continue an answer shows both parts as one. For the agent the second
part has a prompt of its own (`GO_ON`), so one shown answer may stand for several accepted prompts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

from infra.wire.base import Message
from infra.wire.history.answers import HEAD_CHARS, agree
from infra.wire.ids import TurnId
from infra.wire.turns import (
    CallBlock,
    ContentBlock,
    FileBlock,
    ResultBlock,
    TextBlock,
    TurnRequest,
)

GO_ON = "Go on from where your last answer ends. Do not repeat any of it."
"""The prompt for an agent if the client's last message is an answer ("Continue")."""

TAILS_MAX = 16
"""The number of lines after an injected text that may be the beginning of what the user wrote."""

INJECTED = re.compile(r"<context>|<source[ >]")
"""The beginning of a text that a chat program adds to a message."""

_INJECTED_END = re.compile(r"</context>|</source>")
_LINE = re.compile(r"^(?=.*\S)", re.MULTILINE)
_SLICE_CHARS = 256 * 1024


class Accepted(Message):
    """One prompt in the agent's memory.

    `checkpoint` is the transcript entry at which its turn ended; None if the SDK cannot go back to
    it (the prompt came with a sent history, or its turn left no entry). `heads` says how its answer
    begins; None if unknown. `tails` are digests under which the message may come back.
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
    """The agent's memory is what the client sees, or the beginning of it: add what it lacks, then
    the prompt. `restores`: it lacks something. `shown`: see `Rewind`."""

    restores: bool = False
    shown: int | None = None


class Rewind(Message):
    """Go back to the end of an earlier turn, add what the client sent differently since then, then
    the prompt. `keep` prompts stay. `restores`: there are messages between them and the prompt.
    `shown`: the number of sent turns that they correspond to, if that is not `keep`."""

    keep: int
    checkpoint: str
    restores: bool = False
    shown: int | None = None


class Fresh(Message):
    """Start a new SDK session with the sent history, which may be empty."""


Base = Continue | Rewind | Fresh


def digest(content: Iterable[ContentBlock]) -> str:
    """16 hex digits of a user message. Blanks at its ends and repeated blanks are ignored."""
    total = hashlib.sha256()
    for block in content:
        if isinstance(block, TextBlock):
            total.update(b"t")
            for piece in _squeezed(block.text):
                total.update(piece)
        elif isinstance(block, ResultBlock):
            total.update(f"r{block.call or block.name}\0{digest(block.content)}".encode())
        elif isinstance(block, CallBlock):
            total.update(f"c{block.id}\0{block.name}\0{block.arguments}".encode())
        elif isinstance(block, FileBlock):
            # The same whether its bytes came with the message or were uploaded before.
            total.update(b"f" + bytes.fromhex(block.digest))
        else:
            total.update(block.type[:1].encode() + hashlib.sha256(block.data.encode()).digest())
        total.update(b"\0")
    return total.hexdigest()[:16]


def sent_by(request: TurnRequest) -> tuple[str, ...]:
    """The digests of a request's user messages, the prompt last; computed here if an older API did
    not send them."""
    said = (digest(m.content) for m in request.history if m.role == "user")
    return request.sent or (*said, digest(request.prompt))


def tails(content: Sequence[ContentBlock]) -> tuple[str, ...]:
    """Digests of a user message without a text that a chat program may have put in front of it.

    Open WebUI adds what it found in an attached file to the newest message only; later it sends the
    message as the user wrote it. What the user wrote begins with one of the lines after the added
    text, most likely the first. Empty for a message without such a text.
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
    """The words separated by single blanks. Works in slices, because a long text must not block the
    loop."""
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

    `answers` has the heads of the sent answers, one for each message except the prompt; it is empty
    if they are unknown. `is_thin`: the request may come from a client that sends only its new
    message. `resends`: this client has sent history before, so a single message under a known id
    edits the first message.
    """
    before = sent[:-1]
    if is_thin and not resends and _is_next(accepted, sent):
        return Continue()
    common = _common(accepted, before, answers)
    keep, shown = common[-1] if common else _Common(0, 0)
    if keep == len(accepted) and (keep or not before):
        return Continue(restores=shown < len(before), shown=_other(shown, keep, before))
    # A turn without a checkpoint is restored from the sent messages, like those after it.
    for keep, shown in reversed(common):
        if checkpoint := accepted[keep - 1].checkpoint:
            return Rewind(
                keep=keep,
                checkpoint=checkpoint,
                restores=shown < len(before),
                shown=_other(shown, keep, before),
            )
    return Fresh()


def _other(shown: int, keep: int, before: Sequence[str]) -> int | None:
    return shown if keep != shown < len(before) else None


def _is_next(accepted: Sequence[Accepted], sent: Sequence[str]) -> bool:
    """Whether a thin client sends a new message.

    If it sends the same first message again, it wants another answer. The same holds after a first
    message of which nobody knows whether the agent received it (''). Later, the client has shown
    that it never sends history, and a repeated message is a new one.
    """
    if len(sent) != 1:
        return False
    return len(accepted) > 1 or not accepted or accepted[0].digest not in ("", sent[0])


class _Common(NamedTuple):
    """The first `accepted` prompts correspond to the first `sent` turns."""

    keep: int
    shown: int


def _common(
    accepted: Sequence[Accepted], before: Sequence[str], answers: Sequence[str]
) -> list[_Common]:
    """How far both sides agree from the beginning, after each turn."""
    common: list[_Common] = []
    keep = 0
    for i, sent in enumerate(before):
        if keep == len(accepted) or not accepted[keep].is_sent_as(sent):
            break
        answer = answers[i] if i < len(answers) else None
        is_said = GO_ON_DIGEST in before[i : i + 2]
        parts = 0 if is_said else _parts_behind(accepted, keep)
        if not (stands_for := _shows(accepted[keep : keep + 1 + parts], answer)):
            break
        keep += stands_for
        common.append(_Common(keep, i + 1))
    return common


def _parts_behind(accepted: Sequence[Accepted], at: int) -> int:
    """How often the answer to that prompt was continued."""
    behind = accepted[at + 1 :]
    return next((i for i, known in enumerate(behind) if known.digest != GO_ON_DIGEST), len(behind))


def _shows(parts: Sequence[Accepted], answer: str | None) -> int:
    """How many parts of an answer the shown one contains; 0 if it is another answer.

    Only heads are compared: after a long first part, the others are assumed to be shown.
    """
    heads = parts[0].heads
    if not agree(heads, answer):
        return 0
    for i, part in enumerate(parts[1:], 1):
        if answer is None or heads is None or part.heads is None:
            return len(parts)
        if len(answer) < HEAD_CHARS and any(head.startswith(answer) for head in heads):
            return i
        pairs = product(heads, part.heads)
        heads = tuple(dict.fromkeys((one + other)[:HEAD_CHARS] for one, other in pairs))
        if not agree(heads, answer):
            return 0
    return len(parts)


GO_ON_DIGEST = digest([TextBlock(text=GO_ON)])
"""What it is known by."""
