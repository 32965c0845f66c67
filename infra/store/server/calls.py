"""Arguments and answers of Lua scripts: records by name, on both sides.

A call is a frozen record named after its script: `TakeChainCall` runs `lua/take_chain.lua`, which
reads the field `retention_ms` as `A.retention_ms` and the key `chain` as `K.chain`. They travel as
plain lists: when a script is loaded, each name in it is replaced by its position (`ARGV[1]`), which
follows from the order of the fields. So names cost nothing, the two sides cannot disagree about
positions, and an unknown name is refused before the script reaches Redis.

In Lua every value is text: a flag is `'1'` or `''`, and None is `''`. The last field may be a list
of values or of rows (`NamedTuple`): `for _, event in ipairs(A.events) do … event.payload`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Struct
from msgspec.structs import astuple

Answer_co = TypeVar("Answer_co", covariant=True)


class Call(Struct, Generic[Answer_co], frozen=True):
    """Base of a script's arguments. Its type parameter is the script's `Answer`."""

    script: ClassVar[str]
    answer: ClassVar[type]

    def __init_subclass__(cls) -> None:
        """Derives the script's name from the class name, and the answer's type from the base."""
        super().__init_subclass__()
        words = re.findall(r"[A-Z][a-z]+", cls.__name__.removesuffix("Call"))
        cls.script = "_".join(words).lower()
        cls.answer = get_args(cls.__dict__["__orig_bases__"][0])[0]


@dataclass(frozen=True)
class CallShape:
    """How a call's fields travel: `names` one argument each, then the values of `rows`, if any.

    `columns` are the names of a row's values; None if a row is a plain value.
    """

    names: tuple[str, ...]
    rows: str | None = None
    columns: tuple[str, ...] | None = None

    def arguments(self, call: Call[Any]) -> list[str | bytes | int]:
        """A call's values, in this order."""
        values = astuple(call)
        rows = () if self.rows is None else values[-1]
        sent = [
            "" if value is None or value is False else 1 if value is True else value
            for value in values[: len(self.names)]
        ]
        for row in rows:
            sent.extend(row if self.columns else (row,))
        return sent

    def placed(self, body: str, keys: Sequence[str]) -> str:
        """A script with positions in place of its names. Raises `ValueError` for an unknown
        name."""
        body = _KEY_NAME.sub(lambda found: f"KEYS[{_place(found[1], keys)}]", body)
        known = () if self.rows is None else (self.rows,)
        return _NAME.sub(
            lambda found: (
                found[0] if found[1] in known else f"ARGV[{_place(found[1], self.names)}]"
            ),
            body,
        )

    def rows_in_lua(self) -> str:
        """Lua code that builds a table of the rows, for the script to iterate over."""
        if self.rows is None:
            return ""
        step = len(self.columns or "1")
        names = (f"{name} = ARGV[i + {i}]" for i, name in enumerate(self.columns or ()))
        row = f"{{{', '.join(names)}}}" if self.columns else "ARGV[i]"
        return (
            f"local A = {{{self.rows} = {{}}}}\n"
            f"for i = {len(self.names) + 1}, #ARGV, {step} do "
            f"A.{self.rows}[#A.{self.rows} + 1] = {row} end\n"
        )


_KEY_NAME = re.compile(r"\bK\.(\w+)")
_NAME = re.compile(r"\bA\.(\w+)")


def shape_of(call: type[Call[Any]]) -> CallShape:
    """How the fields of these calls travel."""
    hints = get_type_hints(call)
    names = call.__struct_fields__
    if not names or get_origin(hints[names[-1]]) is not Sequence:
        return CallShape(names)
    row = get_args(hints[names[-1]])[0]
    return CallShape(names[:-1], names[-1], getattr(row, "_fields", None))


def _place(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ValueError(f"{name} is none of {', '.join(names)}")
    return names.index(name) + 1
