"""What counts as an answer in a form."""

from __future__ import annotations

import json

import pytest

from agent.answer_in_form import AnswerInForm
from infra.wire.events import TextDelta
from infra.wire.options import AnswerForm

FORM = AnswerForm(schema_text=json.dumps({"type": "object", "required": ["a"]}))


def after(text: str, form: AnswerForm) -> AnswerInForm:
    """An answer whose model finished with this text."""
    answer = AnswerInForm(form)
    answer.shown(TextDelta(text=text))
    answer.read_prose()
    return answer


@pytest.mark.parametrize("text", ["{}", "```json\n{}\n```", '{"a":1}'])
def test_an_object_in_words_is_the_answer(text: str) -> None:
    """The empty one too."""
    answer = after(text, AnswerForm())
    assert answer.is_given
    assert "".join(event.text for event in answer.told()) in text


@pytest.mark.parametrize("text", ["{}", "", "none", "[]"])
def test_words_that_do_not_fit_are_no_answer(text: str) -> None:
    assert not after(text, FORM).is_given
