"""The answer of a turn that has to be a JSON object: how the model gives it, and whether it fits.

The model gives it by calling a tool of ours (`infra.wire.form.tool`), which ends the turn. An
object that does not fit is given back to the model, which makes the call again. What the model
writes beside it is shown as its reasoning; only if that is the object and nothing else, it counts
as given too. Pure apart from loading the schema checker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.cli.offers import CallReply, Offer, OfferedCall
from agent.cli.without_mcp import load_left_out
from infra.wire.events import Event, TextDelta, ThinkingDelta, ToolCall, TurnStarted
from infra.wire.form.tool import (
    FORM_TOOL,
    REMINDER,
    TRIES,
    WISH,
    answer_in,
    input_schema,
    tool_description,
)
from infra.wire.options import AnswerForm

_PROSE_MAX_CHARS = 1024 * 1024


class AnswerInForm:
    """The answer of one turn to one form."""

    wish = WISH
    """What is added to the prompt."""
    reminder = REMINDER
    """What the model is told if it finished without giving an answer."""

    def __init__(self, form: AnswerForm) -> None:
        """Blocks for a fifth of a second when it is first called."""
        load_left_out("jsonschema")
        from infra.wire.form import checks as form_checks

        self._checks = form_checks
        self._form = form
        self._check = form_checks.FormCheck(form)
        self._given: object = None
        self._misfits = 0
        self._prose: list[str] = []
        self._prose_chars = 0

    @property
    def offers(self) -> Sequence[Offer]:
        """The tool."""
        schema = input_schema(self._form)
        return [Offer(FORM_TOOL, tool_description(self._form), schema, self._judge)]

    @property
    def is_given(self) -> bool:
        """Whether there is an answer that fits."""
        return self._given is not None

    @property
    def is_given_up(self) -> bool:
        """Whether the model gave too many answers that do not fit."""
        return self._misfits >= TRIES

    def shown(self, event: Event) -> Event:
        """The event as it is shown: text is no answer."""
        match event:
            case TextDelta(text=text):
                if self._prose_chars <= _PROSE_MAX_CHARS:
                    self._prose.append(text)
                    self._prose_chars += len(text)
                return ThinkingDelta(text=text)
            case ToolCall():
                self._forget_prose()
            case TurnStarted():
                return event.model_copy(update={"has_form": True})
        return event

    def read_prose(self) -> None:
        """The model has finished. If it wrote the object in words and nothing else, that is the
        answer. Takes a second at most."""
        found = self._checks.object_in("".join(self._prose))
        if self._given is None and found is not None:
            given = answer_in(self._form, found)
            self._given = given if self._check.fault_of(given) is None else None
        self._forget_prose()

    def told(self) -> Iterator[TextDelta]:
        """The answer as the turn's text."""
        return self._checks.deltas_of(self._given)

    def _judge(self, call: OfferedCall) -> CallReply:
        self._forget_prose()
        if self._given is not None:
            return CallReply("Your answer was given already.", is_error=False, ends_turn=True)
        given = answer_in(self._form, call.input)
        fault = self._check.fault_of(given)
        if fault is None:
            self._given = given
            return CallReply("Your answer was given.", is_error=False, ends_turn=True)
        self._misfits += 1
        # An error never ends a turn.
        is_last = self.is_given_up
        told = f"Your answer does not fit:\n{fault}"
        return CallReply(told, is_error=not is_last, ends_turn=is_last)

    def _forget_prose(self) -> None:
        self._prose, self._prose_chars = [], 0
