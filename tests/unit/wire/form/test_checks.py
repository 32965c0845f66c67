"""Answers held against forms, whatever the schema and the answer are."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from infra.wire.form.checks import FormCheck, deltas_of, object_in
from infra.wire.form.tool import answer_in, input_schema, tool_description
from infra.wire.options import AnswerForm

ANY = AnswerForm()


def form(**properties: Any) -> AnswerForm:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return AnswerForm(schema_text=json.dumps(schema))


def fault_of(answer: object, **properties: Any) -> str | None:
    return FormCheck(form(**properties)).fault_of(answer)


def test_what_does_not_fit_is_said_with_its_place() -> None:
    assert fault_of({"a": [{"b": 1}]}, a={"items": {"properties": {"b": {"type": "string"}}}}) == (
        "`a[0].b`: 1 is not of type 'string'"
    )
    assert fault_of({}, a={}) == "'a' is a required property"
    assert fault_of({"a": 1}, a={"type": "integer"}) is None


@pytest.mark.parametrize("answer", [None, [], "x", 1])
def test_an_answer_is_an_object(answer: object) -> None:
    assert FormCheck(ANY).fault_of(answer) == "It is not a JSON object."
    assert FormCheck(ANY).fault_of({"a": answer}) is None


def test_a_fault_does_not_repeat_a_long_value() -> None:
    fault = fault_of({"a": "x" * 100_000}, a={"type": "integer"})
    assert fault is not None
    assert len(fault) < 1000


@pytest.mark.parametrize(
    ("format", "good", "bad"),
    [
        ("date", "2026-02-28", "2026-02-30"),
        ("date-time", "2026-02-28T10:00:00Z", "yesterday"),
        ("email", "a@example.org", "a"),
        ("ipv4", "192.0.2.1", "192.0.2.256"),
        ("uuid", "00000000-0000-4000-8000-000000000000", "0"),
    ],
)
def test_formats_count(format: str, good: str, bad: str) -> None:
    assert fault_of({"a": good}, a={"format": format}) is None
    assert fault_of({"a": bad}, a={"format": format}) is not None


def test_a_pattern_that_backtracks_for_ever_is_given_up() -> None:
    fault = fault_of({"a": "a" * 40 + "!"}, a={"pattern": "^(a|aa)+$", "type": "string"})
    assert fault is None or "too large" in fault
    fault = fault_of({"a": "x" * 5000}, a={"pattern": "(x+x+)+y"})
    assert fault is not None


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
@pytest.mark.parametrize(
    ("value", "inside"),
    [("x" * 100_000, {"type": "integer"}), ([1] * 10_000, {"items": {"type": "string"}})],
    ids=["a long text", "a long list"],
)
def test_no_faults_of_alternatives_are_kept(
    keyword: str, value: object, inside: dict[str, Any]
) -> None:
    """Each would hold the whole value as text."""
    check = FormCheck(form(a={keyword: [inside] * 200}))
    tracemalloc.start()
    try:
        fault = check.fault_of({"a": value})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fault is not None
    assert "is not valid under any" in fault
    assert len(fault) < 1000
    assert peak < 2 * 1024 * 1024


@pytest.mark.parametrize(
    ("answer", "told"),
    [("x", None), (1, "more than one"), (1.5, None), ([], "not valid under any")],
)
def test_just_one_alternative_of_one_of_fits(answer: object, told: str | None) -> None:
    fault = fault_of(
        {"a": answer}, a={"oneOf": [{"type": "integer"}, {"type": ["number", "string"]}, False]}
    )
    assert (told or "") in (fault or "")
    assert (fault is None) == (told is None)


def test_any_alternative_of_any_of_fits() -> None:
    either = {"anyOf": [{"type": "integer"}, {"type": "string"}, {"const": None}]}
    for answer in (1, "x", None):
        assert fault_of({"a": answer}, a=either) is None
    assert fault_of({"a": []}, a=either) == "`a`: [] is not valid under any of the given schemas"


def test_alternatives_that_multiply_are_given_up() -> None:
    """Each level of the answer doubles the work."""
    node = {"$ref": "#/$defs/node"}
    branch = {"type": "object", "properties": {"a": node}, "required": ["a", "b"]}
    schema = {
        "type": "object",
        "properties": {"a": node},
        "$defs": {"node": {"anyOf": [branch, branch, {"const": "end"}]}},
    }
    answer: Any = "END"
    for _ in range(60):
        answer = {"a": answer, "b": 1}
    fault = FormCheck(AnswerForm(schema_text=json.dumps(schema))).fault_of(answer)
    assert fault is not None
    assert "too large or too deeply nested" in fault


@pytest.mark.parametrize(
    "inside",
    [
        {"patternProperties": {"^(a+)+$": {}}},
        {"additionalProperties": False, "patternProperties": {"^(a+)+$": {}}},
        {"type": "object", "unevaluatedProperties": False},
        {"type": "object", "unevaluatedItems": False},
        {"type": "object", "$recursiveRef": "#"},
        {"$dynamicRef": "#"},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "patternProperties": {"^(a+)+$": {}},
        },
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"},
    ],
)
def test_what_knows_no_bound_is_given_up_wherever_it_is_reached(inside: dict[str, Any]) -> None:
    """The gateway's check of the schema may have a gap. With `re`, this would take for ever."""
    fault = fault_of({"a": {"a" * 60 + "!": 1}}, a={"anyOf": [inside]})
    assert fault is not None
    assert "too large or too deeply nested" in fault


def test_a_reference_that_leads_in_circles_is_a_fault_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}
    assert FormCheck(AnswerForm(schema_text=json.dumps(schema))).fault_of({"a": 1}) is not None


@pytest.mark.parametrize(
    ("answer", "inside"),
    [
        (1, {"$ref": "#/$defs/secret"}),
        (10**400, {"multipleOf": 0.5}),
        (1, {"minimum": "secret"}),
    ],
    ids=["a reference to nothing", "a number that is too large", "a bound that is none"],
)
def test_what_the_library_raises_is_a_fault_without_its_words(
    answer: object, inside: dict[str, Any]
) -> None:
    fault = fault_of({"a": answer}, a=inside)
    assert fault is not None
    assert fault.startswith("It cannot be checked.")
    assert "secret" not in fault


def test_many_items_are_compared_in_linear_time() -> None:
    items: list[Any] = [{"a": i} for i in range(20_000)]
    assert fault_of({"a": items}, a={"uniqueItems": True}) is None
    assert fault_of({"a": [*items, {"a": 0}]}, a={"uniqueItems": True}) is not None


def test_a_number_that_json_cannot_hold_is_a_fault() -> None:
    assert FormCheck(ANY).fault_of({"a": float("inf")}) == (
        "It has a number that JSON cannot hold."
    )


def test_an_answer_is_its_json_and_nothing_else() -> None:
    answer = {"a": "ä" * 40_000, "b": [1, 2.5, None, True], "c": "\ud83d"}
    deltas = [event.text for event in deltas_of(answer)]
    assert len(deltas) > 1
    assert json.loads("".join(deltas)) == answer | {"c": "�"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (' {"a": 1}\n', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('```\n{"a": 1}\n```', {"a": 1}),
        ('Here: {"a": 1}', None),
        ('{"a": 1} Done.', None),
        ("[1]", None),
        ("", None),
        ('{"a":' * 5000, None),
    ],
)
def test_a_text_that_is_one_object_is_found(text: str, found: object) -> None:
    assert object_in(text) == found


def test_names_that_the_messages_api_refuses_are_put_one_level_deeper() -> None:
    plain, odd = form(size={"type": "integer"}), form(größe={"type": "integer"})
    assert list(input_schema(plain)["properties"]) == ["size"]
    assert list(input_schema(odd)["properties"]) == ["answer"]
    assert answer_in(plain, {"size": 1}) == {"size": 1}
    assert answer_in(odd, {"answer": {"größe": 1}}) == {"größe": 1}
    assert answer_in(odd, {"größe": 1}) == {"größe": 1}


def test_the_model_reads_what_the_answer_is_for() -> None:
    told = tool_description(AnswerForm(name="weather", description="The weather of tomorrow."))
    assert "weather" in told
    assert "The weather of tomorrow." in told
