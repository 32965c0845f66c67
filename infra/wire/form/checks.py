"""Holds an answer against the form that was asked of it. Pure, and bounded.

The schema is a caller's, and the object a model's: together they can make a check endless. A
pattern may backtrack, and alternatives inside alternatives multiply. So every step looks at the
time, and patterns are matched by an engine that can be stopped (`regex`). Nothing is ever fetched:
`api.chat.options.schemas` accepts only references inside the schema, and the keywords whose checks
know no such bound are refused there. Should one be reached all the same, the check is given up
here.

Not imported by `infra.wire` itself, because `jsonschema` costs time and memory that only turns with
a form need.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import date, datetime
from itertools import islice
from typing import Any

import regex
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from infra.wire.events import TextDelta
from infra.wire.options import AnswerForm
from infra.wire.text.characters import whole

CHECK_MAX_S = 1.0
"""A check that takes longer is given up."""
OBJECT_MAX_CHARS = 1024 * 1024
"""The longest answer that is checked."""

_DELTA_CHARS = 16 * 1024
_FAULTS_TOLD = 5
_FAULT_CHARS = 300
_UNCHECKED = (
    "It cannot be checked. It may be too large or too deeply nested, or have numbers that are too "
    "large. Give a smaller one."
)

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]
"""How `jsonschema` checks a keyword: validator, value, instance, schema."""


class TooLong(Exception):
    """The check was given up."""


_until: ContextVar[float] = ContextVar("until")


class FormCheck:
    """Checks answers against one form. Safe to use from a thread."""

    def __init__(self, form: AnswerForm) -> None:
        schema = json.loads(form.schema_text) if form.schema_text else {"type": "object"}
        self._validator = _Bounded(schema, registry=Registry(), format_checker=_FORMATS)

    def fault_of(self, answer: object) -> str | None:
        """What is wrong with the answer, for the model that gave it; None if nothing is."""
        if not isinstance(answer, dict):
            return "It is not a JSON object."
        try:
            written(answer)
        except RecursionError:
            return _UNCHECKED
        except ValueError:
            return "It has a number that JSON cannot hold."
        token = _until.set(time.monotonic() + CHECK_MAX_S)
        try:
            faults = list(islice(self._validator.iter_errors(answer), _FAULTS_TOLD))
        except Exception:  # noqa: BLE001 - the library raises anything, with the caller's schema in it
            return _UNCHECKED
        finally:
            _until.reset(token)
        return "\n".join(map(_told, faults)) or None


def written(answer: object) -> str:
    """The answer as the client gets it. Raises `ValueError` for a number that JSON cannot hold."""
    said = json.dumps(answer, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return whole(said)


def deltas_of(answer: object) -> Iterator[TextDelta]:
    """The answer as the text of a turn: the JSON and nothing else."""
    said = written(answer)
    for begin in range(0, len(said), _DELTA_CHARS):
        yield TextDelta(text=said[begin : begin + _DELTA_CHARS])


def object_in(text: str) -> dict[str, Any] | None:
    """The object that a text consists of, with or without a code fence around it; None if it is
    anything else."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.removeprefix("```").removeprefix("json").removesuffix("```").strip()
    if not text.startswith("{") or len(text) > OBJECT_MAX_CHARS:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _told(fault: ValidationError) -> str:
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in fault.absolute_path)
    what: str = fault.message
    return f"`{place.removeprefix('.')[:_FAULT_CHARS]}`: {what}" if place else what


def _cut(text: str) -> str:
    """The text, if it is long without its middle."""
    if len(text) <= _FAULT_CHARS:
        return text
    return f"{text[: _FAULT_CHARS // 2]} … {text[-_FAULT_CHARS // 2 :]}"


# Keywords


def _bounded(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        # Checks of other keywords look at the unbounded ones beside them.
        if time.monotonic() > _until.get() or not _UNBOUNDED.isdisjoint(schema):
            raise TooLong
        for fault in keyword(validator, value, instance, schema) or ():
            fault.message = _cut(fault.message)  # It repeats the whole value.
            yield fault

    return check


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, str):
        return
    left_s = max(0.001, _until.get() - time.monotonic())
    try:
        found = regex.search(pattern, instance, timeout=left_s, concurrent=True)
    except TimeoutError:
        raise TooLong from None
    if not found:
        yield ValidationError(f"{_cut(instance)!r} does not match {pattern!r}")


def _unique_items(
    validator: Any, wanted: bool, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    """In linear time; the library compares each item with each other one."""
    if wanted and isinstance(instance, list):
        items = {json.dumps(item, sort_keys=True) for item in instance}
        if len(items) < len(instance):
            yield ValidationError("It has the same item twice.")


def _any_of(
    validator: Any, alternatives: list[Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    """Keeps no faults of the alternatives; the library keeps all of them."""
    if not any(_fits(validator, instance, one) for one in alternatives):
        yield ValidationError(f"{instance!r} is not valid under any of the given schemas")


def _one_of(
    validator: Any, alternatives: list[Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    fitting = (one for one in alternatives if _fits(validator, instance, one))
    match len(list(islice(fitting, 2))):
        case 0:
            yield ValidationError(f"{instance!r} is not valid under any of the given schemas")
        case 2:
            yield ValidationError(f"{instance!r} is valid under more than one of the given schemas")


def _fits(validator: Any, instance: Any, schema: Any) -> bool:
    return next(validator.descend(instance, schema), None) is None


_UNBOUNDED = frozenset(
    {
        "patternProperties", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef",
        "$recursiveRef",
    }
)  # fmt: skip
"""They match with `re`, which nothing stops, or go in circles inside the library."""
_OWN: Mapping[str, Keyword] = {
    "anyOf": _any_of,
    "oneOf": _one_of,
    "pattern": _pattern,
    "uniqueItems": _unique_items,
}
_Bounded = extend(
    Draft202012Validator,
    {
        name: _bounded(keyword)
        for name, keyword in {**Draft202012Validator.VALIDATORS, **_OWN}.items()
    },
)

_evolve = _Bounded.evolve


def _evolve_bounded(self: Any, **changes: Any) -> Any:
    """The checker of a schema inside the schema. A `$schema` in it would choose one without our
    bounds."""
    evolved = _evolve(self, **changes)
    if type(evolved) is not _Bounded:
        raise TooLong
    return evolved


_Bounded.evolve = _evolve_bounded

# Formats: only those that need no further package, so that every program checks the same ones.

_FORMATS = FormatChecker(("email", "ipv4", "ipv6", "uuid"))


@_FORMATS.checks("date-time", ValueError)  # type: ignore[untyped-decorator] # the library has no types
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or ("T" in value and bool(datetime.fromisoformat(value)))


@_FORMATS.checks("date", ValueError)  # type: ignore[untyped-decorator]
def _is_date(value: object) -> bool:
    return not isinstance(value, str) or bool(date.fromisoformat(value))
