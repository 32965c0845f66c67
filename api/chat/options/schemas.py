"""Checks the JSON schemas that callers send. Pure.

What OpenAI refuses is refused here too, naming the place: a root that is no object, and in strict
mode everything that its strict mode leaves out. So is what we could not check in bounded time
(`infra.wire.form.checks`), and every reference that leads outside the schema. Notes such as `title`
and `default` pass, in strict mode too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import unquote

import regex
from jsonschema import Draft202012Validator

from infra.wire.errors import RequestRefused

Schema = Mapping[str, Any]

DEPTH_MAX = 32
"""How deeply schemas may be nested in one another."""
PROPERTIES_MAX = 5000
"""Properties of a whole schema; OpenAI's limit."""
ENUM_MAX = 1000
"""Values of all enumerations of a schema; OpenAI's limit."""
PATTERN_MAX_CHARS = 4096

_MAPS = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
_LISTS = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
_SINGLE = frozenset(
    {
        "items", "additionalProperties", "additionalItems", "contains", "not", "if", "then",
        "else", "propertyNames", "contentSchema",
    }
)  # fmt: skip
_REFUSED = frozenset(
    {
        "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef",
        "$vocabulary", "patternProperties", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
_DEFINITIONS = ("$defs", "definitions")
_ROOT_ONLY = frozenset({"$id", "$schema"})
_NOT_STRICT = frozenset(
    {
        "allOf", "contains", "dependentRequired", "dependentSchemas", "else", "if", "maxContains",
        "maxProperties", "minContains", "minProperties", "not", "oneOf", "prefixItems",
        "propertyNames", "then", "uniqueItems",
    }
)  # fmt: skip


def check_schema(schema: Schema, where: str, *, is_strict: bool) -> Schema:
    """The schema, with an object at its root and without `$id` and `$schema`.

    `where` is the field that holds it. Raises `RequestRefused`.
    """
    _Walk(schema, where, is_strict=is_strict).check()
    _check_form(schema, where)
    return _with_object_root(schema, where)


class SchemaRefused(RequestRefused):
    """A schema that cannot be used, and at which place."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"`{where}` {what}", param=where)


class _Walk:
    """Looks at every schema inside a schema."""

    def __init__(self, root: Schema, where: str, *, is_strict: bool) -> None:
        self._root = root
        self._where = where
        self._is_strict = is_strict
        self._properties = self._values = 0
        self._seen = set[int]()

    def check(self) -> None:
        self._check(self._root, self._where, depth=0)

    def _check(self, schema: object, where: str, *, depth: int) -> None:
        if not isinstance(schema, dict) or id(schema) in self._seen:
            return  # True and False are schemas; others are found by `_check_form`.
        self._seen.add(id(schema))
        if depth > DEPTH_MAX:
            raise SchemaRefused(f"is nested more than {DEPTH_MAX} levels deep.", where)
        self._check_keywords(schema, where, is_root=depth == 0)
        self._count(schema, where)
        if self._is_strict:
            _check_strict(schema, where)
        if "$ref" in schema:
            target = _target(self._root, schema["$ref"], f"{where}.$ref")
            place = schema["$ref"].removeprefix("#").replace("/", ".")
            self._check(target, f"{self._where}{place}", depth=depth + 1)
        for inside, path in _schemas_in(schema, where):
            self._check(inside, path, depth=depth + 1)

    def _check_keywords(self, schema: Schema, where: str, *, is_root: bool) -> None:
        unknown = _REFUSED if is_root else _REFUSED | _ROOT_ONLY
        if self._is_strict:
            unknown |= _NOT_STRICT
        for keyword in schema:
            if keyword in unknown:
                mode = " with `strict`" if keyword in _NOT_STRICT else " here"
                raise SchemaRefused(f"is not supported{mode}.", f"{where}.{keyword}")
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            _check_pattern(pattern, f"{where}.pattern")

    def _count(self, schema: Schema, where: str) -> None:
        self._properties += _size(schema.get("properties"))
        self._values += _size(schema.get("enum"))
        if self._properties > PROPERTIES_MAX:
            raise SchemaRefused(f"has more than {PROPERTIES_MAX} properties.", self._where)
        if self._values > ENUM_MAX:
            raise SchemaRefused(f"has more than {ENUM_MAX} `enum` values.", self._where)


def _check_strict(schema: Schema, where: str) -> None:
    """What `strict` demands of an object: all its properties, and no other."""
    kind = schema.get("type")
    if "properties" not in schema and kind != "object" and not _has(kind, "object"):
        return
    if schema.get("additionalProperties") is not False:
        raise SchemaRefused(
            "must be `false` for every object with `strict`.", f"{where}.additionalProperties"
        )
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return
    for name in properties:
        if name not in required:
            raise SchemaRefused(
                f"must name every property with `strict`: `{name}` is missing.",
                f"{where}.required",
            )


def _check_pattern(pattern: str, where: str) -> None:
    if len(pattern) > PATTERN_MAX_CHARS:
        raise SchemaRefused(f"is longer than {PATTERN_MAX_CHARS} characters.", where)
    try:
        regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError):
        raise SchemaRefused("is not a regular expression.", where) from None


def _check_form(schema: Schema, where: str) -> None:
    """Whether it is a JSON schema at all."""
    try:
        found = next(_META.iter_errors(schema), None)
    except RecursionError:
        raise SchemaRefused("is nested too deeply.", where) from None
    if found is not None:
        path = ".".join([where, *map(str, found.absolute_path)])
        what = found.message if len(found.message) <= 200 else "it has another form."
        raise SchemaRefused(f"is not valid in a JSON schema: {what}", path)


_META = Draft202012Validator(Draft202012Validator.META_SCHEMA)


def _with_object_root(schema: Schema, where: str) -> Schema:
    """A root that is a reference, as pydantic writes it for a model that contains itself, becomes
    what it refers to."""
    root, hops = schema, 0
    while "$ref" in root and "type" not in root:
        root, hops = _target(schema, root["$ref"], f"{where}.$ref"), hops + 1
        if hops > DEPTH_MAX:
            raise SchemaRefused("refers to itself only.", f"{where}.$ref")
    if root.get("type") != "object":
        raise SchemaRefused('must be `"object"` at the root of the schema.', f"{where}.type")
    kept = {name: value for name, value in schema.items() if name != "$ref"} if hops else schema
    # References count from the outermost schema, so its definitions are the ones they mean.
    outer = {name: schema[name] for name in _DEFINITIONS if name in schema}
    merged = {**kept, **root, **outer}
    return {name: value for name, value in merged.items() if name not in _ROOT_ONLY}


def _target(root: Schema, reference: object, where: str) -> Schema:
    """The schema that a reference names, read as the library reads it: else another schema would be
    looked at here than is used there."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise SchemaRefused("must refer to a place inside the schema (`#/$defs/…`).", where)
    found: object = root
    for part in unquote(reference.removeprefix("#")).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            found = None
    if not isinstance(found, dict):
        raise SchemaRefused("refers to nothing inside the schema.", where)
    return cast(Schema, found)


def _schemas_in(schema: Schema, where: str) -> Iterator[tuple[object, str]]:
    for keyword, value in schema.items():
        path = f"{where}.{keyword}"
        if keyword in _SINGLE:
            yield value, path
        elif keyword in _LISTS and isinstance(value, list):
            yield from ((inside, f"{path}[{i}]") for i, inside in enumerate(value))
        elif keyword in _MAPS and isinstance(value, dict):
            yield from ((inside, f"{path}.{name}") for name, inside in value.items())


def _has(kind: object, name: str) -> bool:
    return isinstance(kind, list) and name in kind


def _size(value: object) -> int:
    return len(value) if isinstance(value, dict | list) else 0
