"""Which past the next turn stands on, decided from what the client sent. Pure.

OpenAI clients resend everything, and what they send is the truth; the agent's memory is a cache of
it. User messages are compared whole, by digests. Answers come back trimmed or cut, so of them only
the head is compared, and only a clear difference counts (`infra.wire.answers`). The conversation
remembers both for each prompt that it has accepted, and `decide` says how the agent's memory
becomes what the client sees.

A client that has an answer gone on with shows both parts as one. To the agent the second part has a
prompt of its own (`GO_ON`), so one shown answer may stand for several accepted prompts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

from infra.wire.answers import HEAD_CHARS, agree
from infra.wire.base import Message
from infra.wire.ids import TurnId
from infra.wire.turns import ContentBlock, TextBlock

GO_ON = "Go on from where your last answer ends. Do not repeat any of it."
"""What an agent is told where a client sends its answer last ("Continue")."""

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
    the prompt. `restores`: it lacks something. `shown`: see `Rewind`."""

    restores: bool = False
    shown: int | None = None


class Rewind(Message):
    """Go back to the end of an earlier turn, then add what is said differently since, and the
    prompt. `keep` prompts stay. `restores`: there is something between them and the prompt, and
    if they are not as many sent turns, `shown` says how many."""

    keep: int
    checkpoint: str
    restores: bool = False
    shown: int | None = None


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
    common = _common(accepted, before, answers)
    keep, shown = common[-1] if common else _Common(0, 0)
    if keep == len(accepted) and (keep or not before):
        return Continue(restores=shown < len(before), shown=_other(shown, keep, before))
    # What cannot be gone back to is restored from what was sent, as what follows it is.
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
    """Whether a thin client says something new.

    The same first message once more redoes it, and so does one after a first message of which it is
    not known whether the agent took it (''). Later the client has shown that it never sends
    history, and what it says twice it means twice.
    """
    if len(sent) != 1:
        return False
    return len(accepted) > 1 or not accepted or accepted[0].digest not in ("", sent[0])


class _Common(NamedTuple):
    """So many accepted prompts are what so many sent turns show."""

    keep: int
    shown: int


def _common(
    accepted: Sequence[Accepted], before: Sequence[str], answers: Sequence[str]
) -> list[_Common]:
    """How far both sides know the same from the beginning, after each turn of it."""
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
    """How often the answer of that prompt was gone on with."""
    behind = accepted[at + 1 :]
    return next((i for i, known in enumerate(behind) if known.digest != GO_ON_DIGEST), len(behind))


def _shows(parts: Sequence[Accepted], answer: str | None) -> int:
    """How many of an answer's parts the shown one has: 0 where it is another answer.

    Only heads are compared: behind a long first part the others are taken to be shown.
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
