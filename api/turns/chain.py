"""Finds the conversation of a request without a name, by the history that it resends. Pure.

Such a client sends its whole history. After each answer, the conversation is recorded under a
digest of everything said so far, and the next request is looked up by the digest of what it sends
before its prompt. User messages count in full, and the system prompt too, except for dates and
times, because some clients put the time into it. Of the last answer only the head counts, without
whitespace, because answers come back trimmed or cut. Two chats with the same messages are told
apart by their answers; if even these agree, nobody gets the other's container.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from infra.wire.history.answers import Head

HEAD_CHARS = 64
"""The number of non-blank characters of an answer that count."""


_DAYS = r"(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs?)?|Fri|Sat(?:ur)?|Sun)(?:day)?"
_MONTHS = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?"
    r"|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
)
_MOMENT = re.compile(
    rf"\b\d{{1,2}}:\d\d\b|\b\d{{4}}-\d\d?-\d\d?|\b\d{{1,2}}([./])\d{{1,2}}\1\d{{2,4}}\b"
    rf"|\b1\d{{9}}(?:\d{{3}})?\b|\b{_DAYS}\b|\b{_MONTHS}\b.{{0,3}}\d|\d.{{0,4}}\b{_MONTHS}\b"
)
_OF_A_MOMENT = re.compile(rf"\d+|\b(?:{_DAYS}|{_MONTHS}|[AaPp]\.?[Mm]\.?)(?!\w)")


class AnswerHead(Head):
    """Collects the head of an answer while it is relayed. An answer that ends with calls of the
    client's functions is known by their ids, because its text may be empty, or the same in many
    conversations."""

    def __init__(self) -> None:
        super().__init__(HEAD_CHARS)
        self._calls = ""

    @property
    def text(self) -> str:
        """The head so far."""
        return head_of(self._calls) if self._calls else super().text

    def add_call(self, id: str) -> None:
        """The answer ends with that call."""
        self._calls += id


def head_of(answer: str) -> str:
    """The head of a complete answer."""
    head = AnswerHead()
    head.add(answer)
    return head.text


class OpenChain:
    """The beginning of a conversation whose end is still to come. Contains none of its text."""

    def __init__(self, system_prompt: str | None, sent: Sequence[str]) -> None:
        said = json.dumps([without_moments(system_prompt or ""), *sent])
        self._said = hashlib.sha256(f"{said[:-1]}, ".encode())

    def closed(self, *rest: str) -> str:
        """The chain with the rest of the messages and the head of the answer."""
        said = self._said.copy()
        said.update((", ".join(map(json.dumps, rest)) + "]").encode())
        return said.hexdigest()[:32]


def chain(system_prompt: str | None, sent: Sequence[str], answer_head: str) -> str:
    """32 hex digits for a conversation up to an answer. `sent` has digests of user messages."""
    return OpenChain(system_prompt, sent).closed(answer_head)


def without_moments(text: str) -> str:
    """The text without dates and times: in a line that contains one, digits are ignored."""
    lines = text.split("\n")
    return "\n".join(_OF_A_MOMENT.sub("", line) if _MOMENT.search(line) else line for line in lines)


def last_chains(
    system_prompt: str | None, sent: Sequence[str], answers: Sequence[str]
) -> tuple[str, str | None]:
    """The chains up to the last answer and, if there is one, up to the answer before it.

    `sent` begins with the messages of each answer; there is at least one answer. Only these two are
    computed, because one for each turn would cost the square of the history's length.
    """
    last, *before = [
        chain(system_prompt, sent[:end], head_of(answers[end - 1]))
        for end in range(len(answers), max(0, len(answers) - 2), -1)
    ]
    return last, before[0] if before else None
