"""What happens to each field of a chat request: one table, for clients.md and for the tests.

`tests/e2e/test_compatibility.py` sends each `Sent` field and sees whether the model or the answer
changes. A `Shown` field is shown by the test that it names. Both are compared with what the API
says of itself (`api.chat.fields`). `python -m tests.compatibility [--write|--check]` from the
repository's root.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from api.chat.fields import HONOURED, IGNORED_INSIDE, IGNORED_PARAMETERS, REFUSED
from infra.reference.generated import replace_part, run
from tests.failures import tests_by_name

PAGE = Path("docs/reference/clients.md")
BEGIN, END = "<!-- generated:fields -->\n", "<!-- /generated:fields -->\n"
MEASURED = "test_every_field_has_the_effect_that_the_table_says"


class Treatment(StrEnum):
    """What a field does."""

    HONOURED = "honoured"
    """The model is asked something else, or the answer is another one."""
    REFUSED = "refused"
    """400, with the field in `param`."""
    IGNORED = "ignored"
    """Accepted, without any difference."""


HON, REF, IGN = Treatment.HONOURED, Treatment.REFUSED, Treatment.IGNORED


@dataclass(frozen=True)
class Sent:
    """A field that a test sends: `fields` are added to a request, and what comes of it is compared
    with what comes of the same request without them.
    """

    name: str
    fields: Mapping[str, Any]
    agents: Treatment
    side: Treatment
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Fields that both requests have."""

    @property
    def test(self) -> str:
        return MEASURED


@dataclass(frozen=True)
class Shown:
    """A field inside another one, or one whose effect takes more than one request to see."""

    name: str
    agents: Treatment
    side: Treatment
    test: str


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
FUNCTION = {"name": "look", "description": "Look.", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
FORM = {"type": "json_schema", "json_schema": {"name": "f", "strict": True, "schema": SCHEMA}}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)


def user(*parts: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request's messages: one, with these parts and a prompt."""
    prompt = {"type": "text", "text": "echo one two three"}
    return {"messages": [{"role": "user", "content": [*parts, prompt]}]}


def saying(prompt: str, **fields: Any) -> Mapping[str, Any]:
    """A request's messages: one, with this text. And the other fields."""
    return {"messages": [{"role": "user", "content": prompt}], **fields}


def ignored(name: str, value: Any) -> Sent:
    """A parameter without effect."""
    return Sent(name, {name: value}, IGN, IGN)


CALLING = saying('tool look {"a":1}')
CALLING_TWICE = saying('tools look {"a":1} ;; look {"a":2}', tools=TOOLS)

PARAMETERS: tuple[Sent | Shown, ...] = (
    Shown("model", HON, HON, "test_models_are_listed"),
    Shown("messages", HON, HON, "test_whole_answer"),
    Shown("stream", HON, HON, "test_stream_arrives_delta_by_delta_with_its_usage"),
    Sent(
        "stream_options",
        {"stream_options": {"include_usage": True}},
        HON,
        HON,
        beside={"stream": True},
    ),
    Sent(
        "stream_options.include_obfuscation",
        {"stream_options": {"include_obfuscation": True}},
        IGN,
        IGN,
        beside={"stream": True},
    ),
    Sent("response_format", {"response_format": FORM}, HON, HON, beside=saying("comply")),
    Sent("tools", {"tools": TOOLS}, HON, HON, beside=CALLING),
    Shown("tools[].custom", REF, REF, "test_what_is_wrong_is_refused_at_its_place"),
    Sent("tool_choice", {"tool_choice": "none"}, HON, HON, beside={**CALLING, "tools": TOOLS}),
    Shown("tool_choice.custom", REF, REF, "test_what_is_wrong_is_refused_at_its_place"),
    Sent("parallel_tool_calls", {"parallel_tool_calls": False}, HON, HON, beside=CALLING_TWICE),
    Sent("functions", {"functions": [FUNCTION]}, HON, HON, beside=CALLING),
    Sent(
        "function_call",
        {"function_call": "none"},
        HON,
        HON,
        beside={**CALLING, "functions": [FUNCTION]},
    ),
    Sent("n", {"n": 2}, REF, REF),
    Sent("max_completion_tokens", {"max_completion_tokens": 2}, HON, HON),
    Sent("max_tokens", {"max_tokens": 2}, HON, HON),
    Sent("stop", {"stop": ["two"]}, HON, HON),
    Sent("reasoning_effort", {"reasoning_effort": "low"}, HON, HON),
    Sent("temperature", {"temperature": 0.5}, IGN, HON),
    Sent("top_p", {"top_p": 0.5}, IGN, HON),
    ignored("frequency_penalty", 0.5),
    ignored("presence_penalty", 0.5),
    ignored("logit_bias", {"50": 1}),
    ignored("logprobs", True),
    ignored("top_logprobs", 2),
    ignored("seed", 7),
    Sent("verbosity", {"verbosity": "low"}, HON, IGN),
    ignored("user", "somebody"),
    ignored("metadata", {"team": "blue"}),
    ignored("service_tier", "flex"),
    ignored("modalities", ["text"]),
    ignored("audio", {"voice": "alloy", "format": "wav"}),
    ignored("moderation", {"model": "omni"}),
    ignored("prediction", {"type": "content", "content": "one two"}),
    ignored("prompt_cache_key", "k"),
    ignored("prompt_cache_options", {"mode": "explicit"}),
    ignored("prompt_cache_retention", "24h"),
    ignored("safety_identifier", "somebody"),
    ignored("store", True),
    ignored("web_search_options", {"search_context_size": "low"}),
)

_PICTURE = {"type": "image_url", "image_url": {"url": PIXEL}}
_SHARP = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}}
_MARKED = {"type": "text", "text": "Hello.", "prompt_cache_breakpoint": {"mode": "explicit"}}


def answered(**answer: Any) -> Mapping[str, Any]:
    """A request's messages: a question, an answer with these fields, and a prompt."""
    question, prompt = saying("Hello.")["messages"], saying("echo one two three")["messages"]
    return {"messages": [*question, {"role": "assistant", "content": "Hi.", **answer}, *prompt]}


def called(**call: Any) -> Mapping[str, Any]:
    """A request's messages: a question, a call with these fields, its result, and a prompt."""
    one = {"id": "call_1", "function": {"name": "look", "arguments": '{"a":1}'}, **call}
    question, *_, prompt = answered()["messages"]
    calling = {"role": "assistant", "content": None, "tool_calls": [one]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "seen"}
    return {"messages": [question, calling, result, prompt], "tools": TOOLS}


INSIDE: tuple[Sent | Shown, ...] = (
    Sent("messages[].content[].image_url", user(_PICTURE), HON, HON, beside=user()),
    Sent("messages[].content[].image_url.detail", user(_SHARP), IGN, IGN, beside=user(_PICTURE)),
    Sent(
        "messages[].content[].prompt_cache_breakpoint",
        user(_MARKED),
        IGN,
        IGN,
        beside=user({"type": "text", "text": "Hello."}),
    ),
    Shown("messages[].content[].file", HON, HON, "test_a_file_of_any_type_is_taken"),
    Shown("messages[].content[].input_audio", HON, HON, "test_a_sound_is_a_file"),
    Sent(
        "messages[].tool_calls",
        called(),
        HON,
        HON,
        beside={"messages": [called()["messages"][0], called()["messages"][-1]], "tools": TOOLS},
    ),
    Sent("messages[].tool_calls[].type", called(type="function"), IGN, IGN, beside=called()),
    Sent("messages[].audio", answered(audio={"id": "audio_1"}), IGN, IGN, beside=answered()),
)


def rows() -> Sequence[Sent | Shown]:
    """The table, in its order."""
    return (*PARAMETERS, *INSIDE)


def shown_by(wanted: str) -> Sent | Shown | None:
    """The row of the field itself, else that of the field that it is inside of."""
    known = {row.name: row for row in rows()}
    parts = wanted.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if found := known.get(name) or known.get(name.removesuffix("[]")):
            return found
    return None


def said() -> dict[str, Treatment]:
    """What the API says that it does with each field."""
    ignored = IGNORED_PARAMETERS | IGNORED_INSIDE
    return dict.fromkeys(HONOURED, HON) | dict.fromkeys(REFUSED, REF) | dict.fromkeys(ignored, IGN)


def table() -> str:
    """The table as a part of the document."""
    lines = ["| field | for an agent | in a side request | |\n| --- | --- | --- | --- |"]
    files = tests_by_name()
    for row in rows():
        where = f"[its test](../../{files[row.test]})" if row.test != MEASURED else ""
        lines.append(f"| `{row.name}` | {row.agents} | {row.side} | {where} |")
    return "\n".join(lines) + "\n"


def renewed(document: str) -> str:
    """The document with the table as it is now. Raises `KeyError` for a test that is gone."""
    return replace_part(document, table(), begin=BEGIN, end=END)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or write or check the document."""
    return run(
        PAGE,
        renewed,
        printed=table,
        program="tests.compatibility",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
