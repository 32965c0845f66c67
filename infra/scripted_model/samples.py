"""The smallest value that fits a JSON schema, for a model that has to answer in a form. Pure.

It knows what programs usually write: types, enumerations, references, alternatives. Patterns and
the like it does not look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra.wire.form.tool import FORM_TOOL

Json = Mapping[str, Any]

_DEPTH_MAX = 12
_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "email": "someone@example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def form_tool(tools: Sequence[Json]) -> Json | None:
    """The tool that gives an answer in a form, if it is among these."""
    names = (FORM_TOOL, f"__{FORM_TOOL}")
    return next((tool for tool in tools if str(tool.get("name")).endswith(names)), None)


def sample_of(schema: Json) -> dict[str, Any]:
    """An object for a schema with an object at its root."""
    made = _value(schema, schema, _DEPTH_MAX)
    return made if isinstance(made, dict) else {}


def _value(schema: Any, root: Json, left: int) -> Any:
    if not isinstance(schema, dict) or left == 0:
        return None
    if "$ref" in schema:
        return _value(_target(root, schema["$ref"]), root, left - 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if found := schema.get("anyOf") or schema.get("oneOf"):
        return _value(_simplest(found), root, left - 1)
    kinds = schema.get("type", "object")
    return _of_type(kinds if isinstance(kinds, str) else kinds[-1], schema, root, left)


def _of_type(kind: str, schema: Json, root: Json, left: int) -> Any:
    match kind:
        case "object":
            wanted = schema.get("required", ())
            inside = schema.get("properties", {})
            return {name: _value(inside.get(name), root, left - 1) for name in wanted}
        case "array":
            count = schema.get("minItems", 0)
            return [_value(schema.get("items"), root, left - 1) for _ in range(count)]
        case "string":
            return _FORMATS.get(schema.get("format", ""), "sample").ljust(
                schema.get("minLength", 0), "x"
            )
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return True
    return None


def _simplest(found: Sequence[Any]) -> Any:
    """Null where it may be null: so a model that contains itself ends."""
    return next((one for one in found if one == {"type": "null"}), found[0])


def _target(root: Json, reference: str) -> Any:
    found: Any = root
    for part in reference.split("/")[1:]:
        found = found.get(part, {})
    return found


__all__ = ["FORM_TOOL", "form_tool", "sample_of"]
