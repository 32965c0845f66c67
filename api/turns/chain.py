"""Which conversation a request without a name goes on in, by what it resends. Pure.

Such a client sends its whole history. After each answer the conversation is put on record under a
digest of all that was said until then, and the next request is looked up under the digest of what
it sends before its prompt. What the user said counts in full, and the system prompt but for dates
and times, as some carry a clock; of the last answer only its head, without blanks, for answers come
back trimmed or cut. Two chats that said the same are told apart by their answers; where even these
agree, nobody gets the other's container.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from infra.wire.answers import Head

HEAD_CHARS = 64
"""Of an answer, so many characters that are no blanks count."""


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
    """Gathers the head of an answer while it is relayed."""

    def __init__(self) -> None:
        super().__init__(HEAD_CHARS)


def head_of(answer: str) -> str:
    """The head of a whole answer."""
    head = AnswerHead()
    head.add(answer)
    return head.text


class OpenChain:
    """The beginning of a conversation, its end still to come. Holds nothing of what was said."""

    def __init__(self, system_prompt: str | None, sent: Sequence[str]) -> None:
        said = json.dumps([without_moments(system_prompt or ""), *sent])
        self._said = hashlib.sha256(f"{said[:-1]}, ".encode())

    def closed(self, *rest: str) -> str:
        """The chain with what else was sent, and the head of the answer."""
        said = self._said.copy()
        said.update((", ".join(map(json.dumps, rest)) + "]").encode())
        return said.hexdigest()[:32]


def chain(system_prompt: str | None, sent: Sequence[str], answer_head: str) -> str:
    """32 hex digits for a conversation up to an answer. `sent` holds digests of user messages."""
    return OpenChain(system_prompt, sent).closed(answer_head)


def without_moments(text: str) -> str:
    """The text without its dates and times: in a line that holds one, no figure counts."""
    lines = text.split("\n")
    return "\n".join(_OF_A_MOMENT.sub("", line) if _MOMENT.search(line) else line for line in lines)


def last_chains(
    system_prompt: str | None, sent: Sequence[str], answers: Sequence[str]
) -> tuple[str, str | None]:
    """The chains up to the last answer and, where there is one, up to the answer before it.

    `sent` begins with what each answer was given to; there is at least one answer. Only these two
    are made: one for each turn would cost the square of the history's length.
    """
    last, *before = [
        chain(system_prompt, sent[:end], head_of(answers[end - 1]))
        for end in range(len(answers), max(0, len(answers) - 2), -1)
    ]
    return last, before[0] if before else None
