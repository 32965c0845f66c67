"""The demo asks back, and goes on with the answer. Pure.

With the tool for questions that is the same turn, without it the next one."""

from __future__ import annotations

import re

from infra.scripted_model.demo.pictures import make_page, make_plot
from infra.scripted_model.demo.scenes import Scene, quoted, say
from infra.scripted_model.demo.topics import END, topic
from infra.scripted_model.replies import Reply, ToolUse

QUESTION = "What shall I make for you?"

_TOOL = "AskUserQuestion"
_OPTIONS = (("a plot", "of a wave"), ("a web page", "that says hello"))
_FIRST = re.compile(r"\b(?:1|one|first|plot)\b", re.IGNORECASE)
_SECOND = re.compile(r"\b(?:2|two|second|page|web)\b", re.IGNORECASE)


def _ask(scene: Scene, found: re.Match[str]) -> Reply:
    if scene.step > 0:
        return _go_on(scene.after(1), scene.results[0].text if scene.results else "")
    if scene.can(_TOOL):
        options = [{"label": label, "description": about} for label, about in _OPTIONS]
        return say("", ToolUse(_TOOL, {"questions": [{"question": QUESTION, "options": options}]}))
    told = "\n".join(f"{i}. {label}: {about}" for i, (label, about) in enumerate(_OPTIONS, 1))
    return say(f"**{QUESTION}**\n\n{told}")


def is_answer(scene: Scene) -> bool:
    """Whether the prompt answers the question that the message before it asked."""
    return QUESTION in scene.answer_before


def answered(scene: Scene) -> Reply:
    """What follows such a prompt."""
    return _go_on(scene, scene.prompt.text)


def _go_on(scene: Scene, answer: str) -> Reply:
    if _FIRST.search(answer):
        return make_plot(scene)
    if _SECOND.search(answer):
        return make_page(scene)
    return say(f"You answered “{quoted(answer)}”. I can make none of that, but I heard you.")


TOPICS = (
    topic(
        "ask back",
        "Asks what it should make; answer by number or in your own words, now or days later.",
        examples=["ask me a question"],
        patterns=[rf"ask me(?: a question| something| back)?{END}"],
        act=_ask,
    ),
)
