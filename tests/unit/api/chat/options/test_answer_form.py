"""Which forms of an answer are taken, and what is said about the others."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field

from api.chat.options.answer_form import read_answer_form
from api.chat.options.schemas import DEPTH_MAX, ENUM_MAX, PATTERN_MAX_CHARS, PROPERTIES_MAX
from api.chat.request import read_chat_request
from infra.wire.errors import RequestRefused
from infra.wire.form.checks import FormCheck
from infra.wire.form.tool import input_schema
from infra.wire.options import AnswerForm

GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
WHERE = "response_format.json_schema"
TEXT = {"type": "string"}


def form_of(response_format: Any) -> AnswerForm | None:
    body = json.dumps(GOOD | {"response_format": response_format}, separators=(",", ":")).encode()
    return read_answer_form(read_chat_request(body))


def named(schema: Any, *, strict: bool | None = None, **more: Any) -> dict[str, Any]:
    told = {"name": "t", "schema": schema, **more}
    if strict is not None:
        told["strict"] = strict
    return {"type": "json_schema", "json_schema": told}


def an_object(*, is_open: bool = False, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return schema if is_open else schema | {"additionalProperties": False}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = TEXT
    for _ in range(levels):
        schema = an_object(inside=schema)
    return schema


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    name: str = Field(description="what it is called", pattern=r"^\w+$")
    colour: Colour
    size: int | None


class Tree(BaseModel):
    leaves: list[Leaf]
    children: list[Tree]
    best: Leaf | None


@pytest.mark.parametrize("told", [None, {"type": "text"}])
def test_text_is_no_form(told: Any) -> None:
    assert form_of(told) is None


@pytest.mark.parametrize(
    "told", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "t"}}]
)
def test_without_a_schema_any_object_will_do(told: Any) -> None:
    form = form_of(told)
    assert form is not None
    assert form.schema_text is None


def test_what_the_client_says_about_it_is_kept() -> None:
    form = form_of(named(an_object(a=TEXT), description="a letter"))
    assert form is not None
    assert (form.name, form.description) == ("t", "a letter")
    assert json.loads(form.schema_text or "") == an_object(a=TEXT)


@pytest.mark.parametrize("strict", [True, False])
def test_what_openais_package_makes_of_a_model_is_taken(strict: bool) -> None:
    """Enumerations, alternatives, references, and a model that contains itself."""
    form = form_of(named(to_strict_json_schema(Tree), strict=strict))
    assert form is not None
    leaf = {"name": "oak", "colour": "red", "size": None}
    tree = {"leaves": [leaf], "children": [], "best": leaf}
    check = FormCheck(form)
    assert check.fault_of(tree | {"children": [tree]}) is None
    assert check.fault_of(tree | {"children": [{}]}) is not None


def test_a_model_that_is_only_a_reference_gets_an_object_at_its_root() -> None:
    schema = Tree.model_json_schema()
    assert schema["$ref"] == "#/$defs/Tree"
    form = form_of(named(schema))
    assert form is not None
    assert input_schema(form)["type"] == "object"
    assert FormCheck(form).fault_of({"leaves": [], "children": [{}], "best": None}) is not None


def test_a_root_that_is_a_reference_keeps_its_definitions() -> None:
    inner = an_object(x={"$ref": "#/$defs/C"}) | {"$defs": {"B": TEXT}}
    schema = {"$ref": "#/$defs/A", "$defs": {"A": inner, "C": {"type": "integer"}}}
    form = form_of(named(schema))
    assert form is not None
    assert FormCheck(form).fault_of({"x": 1}) is None
    assert "is not of type" in (FormCheck(form).fault_of({"x": "one"}) or "")


@pytest.mark.parametrize(
    ("name", "reference"),
    [("a b", "a%20b"), ("größe", "gr%C3%B6%C3%9Fe"), ("a%41", "a%2541"), ("a/b", "a~1b")],
)
def test_a_reference_names_what_the_check_finds(name: str, reference: str) -> None:
    schema = an_object(x={"$ref": f"#/$defs/{reference}"}) | {"$defs": {name: TEXT}}
    form = form_of(named(schema))
    assert form is not None
    assert FormCheck(form).fault_of({"x": "text"}) is None
    assert "is not of type" in (FormCheck(form).fault_of({"x": 1}) or "")


def test_a_schema_of_an_older_draft_is_taken() -> None:
    older = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"n": {"type": "integer", "minimum": 1}},
        **an_object(is_open=True, n={"$ref": "#/definitions/n"}),
    }
    form = form_of(named(older))
    assert form is not None
    assert "$schema" not in (form.schema_text or "")
    assert FormCheck(form).fault_of({"n": 0}) is not None


REFUSED: dict[str, tuple[Any, str]] = {
    "an unknown type": ({"type": "yaml"}, "response_format.type"),
    "no type": ({}, "response_format.type"),
    "no json_schema": ({"type": "json_schema"}, WHERE),
    "no name": ({"type": "json_schema", "json_schema": {}}, f"{WHERE}.name"),
    "a name with blanks": (named({}, name="a b"), f"{WHERE}.name"),
    "a description that is no text": (named({}, description=1), f"{WHERE}.description"),
    "strict that is no flag": (named({}) | named({}, strict="yes"), f"{WHERE}.strict"),  # type: ignore[arg-type]
    "strict without a schema": (named(None, strict=True), f"{WHERE}.schema"),
    "a schema that is none": (named([]), f"{WHERE}.schema"),
    "no object at the root": (named({"type": "array", "items": TEXT}), f"{WHERE}.schema.type"),
    "nothing at the root": (named({}), f"{WHERE}.schema.type"),
    "alternatives at the root": (
        named({"anyOf": [an_object(), an_object()]}, strict=True),
        f"{WHERE}.schema.type",
    ),
    "an unknown kind of value": (
        named(an_object(x={"type": "text"})),
        f"{WHERE}.schema.properties.x.type",
    ),
    "properties that are a list": (
        named({"type": "object", "properties": []}),
        f"{WHERE}.schema.properties",
    ),
    "a reference to nothing": (
        named(an_object(x={"$ref": "#/$defs/y"})),
        f"{WHERE}.schema.properties.x.$ref",
    ),
    "a reference to somewhere else": (
        named(an_object(x={"$ref": "https://example.org/y.json"})),
        f"{WHERE}.schema.properties.x.$ref",
    ),
    "a reference past a look-alike to names by pattern": (
        named(
            an_object(x={"$ref": "#/foo%41"})
            | {"foo%41": {"type": "object"}, "fooA": {"patternProperties": {"^(a+)+$": TEXT}}}
        ),
        f"{WHERE}.schema.foo%41.patternProperties",
    ),
    "a reference to a name that is read otherwise": (
        named(an_object(x={"$ref": "#/$defs/a%41"}) | {"$defs": {"a%41": TEXT}}),
        f"{WHERE}.schema.properties.x.$ref",
    ),
    "a base for references in the schema of a content": (
        named(an_object(x={"contentSchema": {"$id": "https://example.org/"}})),
        f"{WHERE}.schema.properties.x.contentSchema.$id",
    ),
    "a reference to itself": (named({"$ref": "#"}), f"{WHERE}.schema.$ref"),
    "a reference that is no text": (
        named(an_object(x={"$ref": 1})),
        f"{WHERE}.schema.properties.x.$ref",
    ),
    "a pattern that is none": (
        named(an_object(x={"type": "string", "pattern": "("})),
        f"{WHERE}.schema.properties.x.pattern",
    ),
    "a pattern that is too long": (
        named(an_object(x={"pattern": "a" * (PATTERN_MAX_CHARS + 1)})),
        f"{WHERE}.schema.properties.x.pattern",
    ),
    "names by pattern": (
        named({"type": "object", "patternProperties": {"^a": TEXT}}),
        f"{WHERE}.schema.patternProperties",
    ),
    "a base for references inside": (
        named(an_object(x={"$id": "https://example.org/"})),
        f"{WHERE}.schema.properties.x.$id",
    ),
    "too deep": (named(nested(DEPTH_MAX + 1)), f"{WHERE}.schema" + ".properties.inside" * 33),
    "too many properties": (
        named(an_object() | {"properties": dict.fromkeys(map(str, range(PROPERTIES_MAX + 1)), 1)}),
        f"{WHERE}.schema",
    ),
    "too many values": (
        named(an_object(x={"enum": list(range(ENUM_MAX + 1))})),
        f"{WHERE}.schema",
    ),
    "strict: an open object": (
        named(an_object(x=an_object(is_open=True, y=TEXT)), strict=True),
        f"{WHERE}.schema.properties.x.additionalProperties",
    ),
    "strict: a property that may be missing": (
        named(an_object(x=TEXT) | {"required": []}, strict=True),
        f"{WHERE}.schema.required",
    ),
    "strict: an unsupported keyword": (
        named(an_object(x={"allOf": [TEXT]}), strict=True),
        f"{WHERE}.schema.properties.x.allOf",
    ),
    "strict: inside a definition": (
        named(
            an_object(x={"$ref": "#/$defs/y"}) | {"$defs": {"y": {"type": "object"}}}, strict=True
        ),
        f"{WHERE}.schema.$defs.y.additionalProperties",
    ),
    "strict: inside a list": (
        named(an_object(x={"type": "array", "items": {"not": TEXT}}), strict=True),
        f"{WHERE}.schema.properties.x.items.not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
def test_a_form_that_cannot_be_kept_is_refused_with_its_place(which: str) -> None:
    told, param = REFUSED[which]
    with pytest.raises(RequestRefused) as refused:
        form_of(told)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "schema",
    [
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'{"description":"%b"}' % (b"x" * 70_000),
        b"[" * 900 + b"]" * 900,
    ],
    ids=["very deep", "deep", "large", "a deep list"],
)
def test_a_form_of_any_depth_and_size_is_answered(schema: bytes) -> None:
    body = json.dumps(GOOD).encode()[:-1] + (
        b',"response_format":{"type":"json_schema","json_schema":{"name":"t","schema":%b}}}'
        % schema
    )
    with pytest.raises(RequestRefused):
        read_answer_form(read_chat_request(body))


def test_not_strict_is_more_than_strict() -> None:
    loose = an_object(is_open=True, x={"oneOf": [TEXT, {"type": "integer"}]}) | {"minProperties": 1}
    assert form_of(named(loose)) is not None
    with pytest.raises(RequestRefused):
        form_of(named(loose, strict=True))


KEYWORDS = (
    "type", "properties", "required", "items", "anyOf", "$ref", "$defs", "enum", "pattern",
    "additionalProperties", "allOf", "not", "if", "uniqueItems", "minimum", "format", "$id",
)  # fmt: skip
LEAVES = st.sampled_from(
    [None, True, 0, -1, 1.5, "", "object", "string", "#", "#/$defs/a", "#/anyOf/0", "(", "a+"]
)
VALUES = st.recursive(
    LEAVES,
    lambda inside: (
        st.lists(inside, max_size=2)
        | st.dictionaries(st.sampled_from([*KEYWORDS, "a"]), inside, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=6), st.booleans())
def test_any_schema_is_refused_with_its_place_or_can_be_checked(
    schema: dict[str, Any], strict: bool
) -> None:
    try:
        form = form_of(named({"type": "object"} | schema, strict=strict))
    except RequestRefused as error:
        place = error.param or ""
    else:
        assert form is not None
        FormCheck(form).fault_of({"a": {"a": [1, "x", None]}})
        place = WHERE + ".schema"
    assert place.startswith(f"{WHERE}.schema")
