"""Checks values against JSON Schemas, with `jsonschema`, loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.cli.without_mcp import load_left_out

_DETAIL_MAX_CHARS = 500

Check = Callable[[Any], str | None]
"""What is wrong with a value, in words for the model; None if nothing is."""


def checker(schema: Mapping[str, Any]) -> Check:
    """A check against that schema. Blocks for a fifth of a second when it is first called.

    Nothing is fetched: a reference that leads out of the schema cannot be followed, and what cannot
    be checked counts as right.
    """
    jsonschema = load_left_out("jsonschema")
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    of_draft = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    validator = of_draft(schema, registry=Registry())

    def check(value: Any) -> str | None:
        try:
            error = jsonschema.exceptions.best_match(validator.iter_errors(value))
        except (Unresolvable, RecursionError, jsonschema.exceptions.SchemaError):
            return None
        if error is None:
            return None
        where = f"{error.json_path}: " if error.path else ""
        return f"{where}{error.message}"[:_DETAIL_MAX_CHARS]

    return check
