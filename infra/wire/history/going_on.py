"""Decides as `infra.wire.history.decision.decide`, from the last accepted prompt alone. Pure.

Most requests go on from all that is recorded: the client sends only its new message, or it sends
again exactly what it sent last time, with the answer and a new prompt behind it. Then nobody has to
read all accepted prompts. With each prompt the conversation keeps a digest of the history that the
client showed before it, if the prompts before it are just those (`past_of`). If the next request
begins with the same history, only the last prompt and its answer are left to compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from infra.wire.history.answers import agree
from infra.wire.history.decision import GO_ON_DIGEST, Accepted, Base, Continue, Fresh, decide


class NewestPrompt(NamedTuple):
    """The end of the list of accepted prompts: its length, its last entry, and the digest that was
    kept with it (None: the prompts before it are not known to be what the client shows)."""

    known: int
    last: Accepted | None
    past: str | None = None


def past_of(before: Sequence[str], answers: Sequence[str]) -> str:
    """32 hex digits of a sent history: its user messages and the beginnings of their answers."""
    return hashlib.blake2b("\n".join(_said(before, answers)).encode(), digest_size=16).hexdigest()


def decide_from_newest(
    newest: NewestPrompt,
    sent: Sequence[str],
    *,
    is_thin: bool,
    resends: bool,
    answers: Sequence[str] = (),
    blind: Callable[[str], str] = str,
) -> Base | None:
    """What `decide` would answer, or None if that needs the whole list.

    The arguments are those of `decide`. `blind` makes of a digest of a history what is kept of it.
    """
    if newest.last is None or newest.known == 1:
        whole = () if newest.last is None else (newest.last,)
        return decide(whole, sent, is_thin=is_thin, resends=resends, answers=answers)
    if len(sent) == 1:
        # A lone message is the next one, or the first one again in other words.
        return Continue() if is_thin and not resends else Fresh()
    if newest.past is None or not _is_shown(newest.last, sent[-2], answers, len(sent) - 2):
        return None
    is_same = newest.past == blind(past_of(sent[:-2], answers))
    return Continue() if is_same else None


def _is_shown(last: Accepted, sent: str, answers: Sequence[str], at: int) -> bool:
    """Whether that sent message and its answer are the last accepted ones.

    Not where an answer was continued: then one shown answer may stand for several prompts.
    """
    if GO_ON_DIGEST in (sent, last.digest):
        return False
    answer = answers[at] if at < len(answers) else None
    return last.is_sent_as(sent) and agree(last.heads, answer)


def _said(before: Sequence[str], answers: Sequence[str]) -> Iterator[str]:
    # Neither has a blank in it, so no two histories are written alike.
    for sent, answer in zip_longest(before, answers[: len(before)]):
        yield sent if answer is None else f"{sent} {answer}"
