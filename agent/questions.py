"""Questions of the agent to its user, in plain chat. Pure.

The model asks with a tool, and the call stays open: the turn ends with the question as its text,
and whatever the user says next is the call's result, in this CLI or in one that resumes the session
elsewhere, days later (`infra.wire.history.paired`). So it works with every client that shows text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agent.asked_kind import OTHERWISE_ASKED, AskedKind, Asking
from agent.cli.offers import CallReply, Offer, OfferedCall
from infra.wire.history.paired import QUESTION_TOOL

QUESTIONS_MAX = 4
OPTIONS_MAX = 8
TEXT_MAX_CHARS = 2000
"""Of a question, an option or its description, as it is shown."""

DESCRIPTION = (
    "Ask your user, and wait for the answer. Use it when you cannot go on without a decision that "
    "only they can make; otherwise decide yourself. Your turn ends with this call, and its result "
    "is what they say next, in their own words or by an option's number, counted from 1. Ask "
    "everything in one call."
)
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "questions": {
            "type": "array",
            "minItems": 1,
            "maxItems": QUESTIONS_MAX,
            "items": {
                "type": "object",
                "properties": {
                    "question": {"type": "string", "description": "The whole question."},
                    "header": {"type": "string", "description": "A word or two."},
                    "options": {
                        "type": "array",
                        "maxItems": OPTIONS_MAX,
                        "items": {
                            "type": "object",
                            "properties": {
                                "label": {"type": "string"},
                                "description": {"type": "string"},
                            },
                            "required": ["label"],
                        },
                    },
                    "multiSelect": {"type": "boolean", "description": "Several may be chosen."},
                },
                "required": ["question"],
            },
        }
    },
    "required": ["questions"],
}


class UserQuestions:
    """What the agent may ask in one turn."""

    def __init__(self, *, are_allowed: bool, kind: AskedKind | None = None) -> None:
        """`kind` is shared by all that the turn may ask."""
        self._has_asked = False
        self._kind = kind or AskedKind()
        self.offers: Sequence[Offer] = (
            [Offer(QUESTION_TOOL, DESCRIPTION, _SCHEMA, self._judge)] if are_allowed else []
        )

    def _judge(self, call: OfferedCall) -> CallReply | None:
        if self._has_asked:
            return CallReply("You have asked already. Ask everything in one call.")
        if not list(_questions(call.input)):
            return CallReply("There is no question in this call. Give `questions`, with texts.")
        if not self._kind.takes(Asking.QUESTION):
            return CallReply(OTHERWISE_ASKED)
        self._has_asked = True
        return None


def is_question(call: OfferedCall) -> bool:
    """Whether the call is a question to the user."""
    return call.name == QUESTION_TOOL


def text_of(call: OfferedCall) -> str:
    """The question as the user reads it."""
    questions = list(_questions(call.input))
    shown = [
        _shown(question, number=i if len(questions) > 1 else None)
        for i, question in enumerate(questions, 1)
    ]
    return "\n\n".join(shown)


def _shown(question: Mapping[str, Any], *, number: int | None) -> str:
    head = f"**{'' if number is None else f'{number}. '}{_line(question['question'])}**"
    options = list(_options(question.get("options")))
    if not options:
        return head
    several = " (several may be chosen)" if question.get("multiSelect") is True else ""
    return "\n".join([head + several, "", *_numbered(options)])


def _numbered(options: Iterable[tuple[str, str]]) -> Iterator[str]:
    for i, (label, description) in enumerate(options, 1):
        yield f"{i}. {label}: {description}" if description else f"{i}. {label}"


def _questions(given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    questions = given.get("questions")
    for question in questions[:QUESTIONS_MAX] if isinstance(questions, list) else ():
        if isinstance(question, dict) and _line(question.get("question")):
            yield question


def _options(given: object) -> Iterator[tuple[str, str]]:
    for option in given[:OPTIONS_MAX] if isinstance(given, list) else ():
        if isinstance(option, dict) and (label := _line(option.get("label"))):
            yield label, _line(option.get("description"))


def _line(text: object) -> str:
    """A text on one line; empty if it is none."""
    return " ".join(text.split())[:TEXT_MAX_CHARS] if isinstance(text, str) else ""
