"""Converts Redis replies to text and records. No other code handles raw replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from msgspec import Struct

from infra.wire.errors import UnknownMessage


def text(reply: Any) -> str:
    """A bulk or status reply. Bytes by default; a client may have decoded them already."""
    return reply.decode() if isinstance(reply, bytes) else str(reply)


_Word = TypeVar("_Word", bound=StrEnum)
_Record = TypeVar("_Record")


def word(kind: type[_Word], reply: Any) -> _Word:
    """One of our words. Raises `UnknownMessage` for one of a later version, whose record is left to
    programs that know it."""
    said = text(reply)
    try:
        return kind(said)
    except ValueError:
        raise UnknownMessage(said) from None


def optional(reply: Any) -> str | None:
    """Like `text`; None for nil and for an empty string, which both mean 'no value' in our
    hashes."""
    return text(reply) or None if reply is not None else None


def fields(reply: Mapping[Any, Any] | Iterable[Any]) -> dict[str, str]:
    """A hash: HGETALL's mapping, or a script's flat list of names and values."""
    if isinstance(reply, Mapping):
        return {text(name): text(value) for name, value in reply.items()}
    flat = [text(part) for part in reply]
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Answer(Struct, frozen=True):
    """Base of a script's answer: a word for the outcome, then names and values.

    The first field of each is `outcome`, one of the words that its script knows (`Literal` or
    `StrEnum`). The others keep their defaults if they do not come with the outcome; an empty value
    is None if the type allows that.
    """


class OkAnswer(Answer, frozen=True):
    """Of a script that always does what it is asked for, and has nothing else to say."""

    outcome: Literal["ok"]


class StepAnswer(Answer, frozen=True):
    """Of a script that moves something to another state, under a fence. `state`: the old one, from
    which there is no such step."""

    outcome: Literal["ok", "lost", "illegal"]
    state: str = ""


class AnswerRow(Struct, frozen=True):
    """Base of a record within an answer: a list of names and values."""


def reader_of(kind: type[_Record]) -> Callable[[Sequence[Any]], _Record]:
    """A function that makes an `Answer` of a script's reply. It raises `UnknownMessage` for an
    unknown outcome."""
    readers = _readers(kind)
    return partial(_answer, kind, readers[b"outcome"][1], readers)


_Readers = Mapping[bytes, tuple[str, Callable[[Any], Any]]]


def _answer(
    kind: type[_Record], read_outcome: Callable[[Any], Any], readers: _Readers, reply: Sequence[Any]
) -> _Record:
    told = {"outcome": read_outcome(reply[0])}
    for i in range(1, len(reply), 2):
        name, read = readers[reply[i]]
        told[name] = read(reply[i + 1])
    return kind(**told)


def _row(kind: type[_Record], readers: _Readers, flat: Sequence[Any]) -> _Record:
    told = {}
    for i in range(0, len(flat), 2):
        name, read = readers[flat[i]]
        told[name] = read(flat[i + 1])
    return kind(**told)


def _readers(kind: type[Any]) -> _Readers:
    hints = get_type_hints(kind)
    return {name.encode(): (name, _reader(hints[name])) for name in kind.__struct_fields__}


def _reader(hint: Any) -> Callable[[Any], Any]:
    """A function that makes a value of that type of a reply."""
    kind = getattr(hint, "__supertype__", hint)  # A NewType is read as what it stands for.
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return partial(_or_none, _reader(next(part for part in parts if part is not NoneType)))
    if origin is Literal:
        return partial(_literal, {part.encode(): part for part in parts})
    if origin is Sequence:
        return partial(_each, _reader(parts[0]))
    if origin is Mapping:
        return partial(_mapping, _reader(parts[0]), _reader(parts[1]))
    if issubclass(kind, AnswerRow):
        return partial(_row, kind, _readers(kind))
    if issubclass(kind, StrEnum):
        return partial(word, kind)
    return _PLAIN[kind]


def _flag(reply: Any) -> bool:
    return reply in (1, b"1")


def _raw(reply: Any) -> bytes:
    return reply  # type: ignore[no-any-return]


_PLAIN: dict[Any, Callable[[Any], Any]] = {str: text, int: int, bool: _flag, bytes: _raw}


def _literal(words: Mapping[bytes, str], reply: Any) -> str:
    if reply not in words:
        raise UnknownMessage(text(reply))
    return words[reply]


def _or_none(read: Callable[[Any], Any], reply: Any) -> Any:
    return None if reply is None or reply in (b"", "") else read(reply)


def _each(read: Callable[[Any], Any], reply: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(map(read, reply))


def _mapping(
    name: Callable[[Any], Any], value: Callable[[Any], Any], flat: Sequence[Any]
) -> dict[Any, Any]:
    return {name(n): value(v) for n, v in zip(flat[::2], flat[1::2], strict=True)}
