"""An answer of the side lane that has to be JSON: read, checked, and asked for again."""

from __future__ import annotations

from typing import Any

from infra.wire.errors import ErrorCode
from infra.wire.events import Event, TextDelta, ThinkingDelta, TurnEnded, Usage
from infra.wire.form.tool import FORM_TOOL, REMINDER, answer_in
from infra.wire.options import AnswerForm
from worker.side.messages_api import INPUT_MAX_CHARS, AnswerStream

Json = dict[str, Any]

_ANSWERS_READ = 4
"""How many answers of one call to the model are checked."""


class FormedAnswer:
    """The answers of one turn to one form, until one fits."""

    def __init__(self, form: AnswerForm, *, budget_tokens: int | None) -> None:
        self._form = form
        self._budget_tokens = budget_tokens
        self._prose: list[str] = []
        self._prose_chars = 0
        self._misfit: list[Json] = []
        """The newest answer that did not fit, and what was wrong with it, as messages."""

    def begin(self) -> None:
        """An answer begins. What was heard of one that broke off does not count."""
        self._prose, self._prose_chars = [], 0

    def unforced(self, body: Json, end: TurnEnded) -> Json | None:
        """The call without a choice of tools, if that was refused: a model that always thinks
        cannot be forced. None for any other end."""
        if end.error is None or end.error.code is not ErrorCode.INVALID_REQUEST:
            return None
        if "tool_choice" not in body or "tool_choice" not in end.error.message:
            return None
        return {name: value for name, value in body.items() if name != "tool_choice"}

    def lets_pass(self, event: Event) -> bool:
        """Whether the event is shown. Text is not, as it is no JSON yet, and no thoughts are, as
        they may be shown in the text."""
        if not isinstance(event, TextDelta):
            return not isinstance(event, ThinkingDelta)
        if self._prose_chars <= INPUT_MAX_CHARS:
            self._prose.append(event.text)
            self._prose_chars += len(event.text)
        return False

    def read(self, answer: AnswerStream) -> list[TextDelta] | None:
        """The text of the answer; None if it does not fit. Of several, the first that fits counts.
        To be run in a thread, for a second for each at most."""
        # Only turns with a form pay for this import, and not the loop.
        from infra.wire.form.checks import FormCheck, deltas_of, object_in

        prose = "".join(self._prose)
        check = FormCheck(self._form)
        for id, said in _answers(answer, prose):
            found = object_in(said)
            given = answer_in(self._form, found) if found is not None else None
            fault = check.fault_of(given)
            if fault is None:
                return list(deltas_of(given))
            self._misfit = _misfit(id, prose, found or {}, fault)
        return None

    def again(self, body: Json, used: Usage) -> Json | None:
        """The call that asks for it again; None if no tokens are left for it."""
        left = body["max_tokens"]
        if self._budget_tokens is not None:
            left = min(left, self._budget_tokens - used.spent_tokens)
        if left <= 0:
            return None
        return {**body, "max_tokens": left, "messages": [*body["messages"], *self._misfit]}


def _answers(answer: AnswerStream, prose: str) -> list[tuple[str | None, str]]:
    """Each answer as text, and the id of its call: words count only if there is no call."""
    calls = [call for call in answer.calls if call.name == FORM_TOOL]
    if not calls:
        return [(None, prose)]
    return [(call.id, call.input or "{}") for call in calls[:_ANSWERS_READ]]


def _misfit(id: str | None, prose: str, found: Json, fault: str) -> list[Json]:
    """An answer, in the call of this id or in words, and what was wrong with it, as messages.

    The Messages API accepts no empty text, and wants each call answered.
    """
    text = [{"type": "text", "text": prose}] if prose.strip() else []
    if id is None:
        asked = {"role": "user", "content": [{"type": "text", "text": REMINDER}]}
        return [{"role": "assistant", "content": text}, asked] if text else [asked]
    call = {"type": "tool_use", "id": id, "name": FORM_TOOL, "input": found}
    result = {"type": "tool_result", "tool_use_id": id, "is_error": True, "content": fault}
    return [
        {"role": "assistant", "content": [*text, call]},
        {"role": "user", "content": [result]},
    ]
