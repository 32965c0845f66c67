"""Redis replies, made into text: the only place where a store's bytes become strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from infra.wire.errors import UnknownMessage


def text(reply: Any) -> str:
    """A bulk or status reply. Bytes by default; a client may have decoded them already."""
    return reply.decode() if isinstance(reply, bytes) else str(reply)


_Word = TypeVar("_Word", bound=StrEnum)


def word(kind: type[_Word], reply: Any) -> _Word:
    """One of our words. Raises `UnknownMessage` for one of a later version, whose record is left to
    those who know it.
    """
    said = text(reply)
    try:
        return kind(said)
    except ValueError:
        raise UnknownMessage(said) from None


def optional(reply: Any) -> str | None:
    """The same; None for nil and for an empty string, which stand for 'no value' in our hashes."""
    return text(reply) or None if reply is not None else None


def fields(reply: Mapping[Any, Any] | Iterable[Any]) -> dict[str, str]:
    """A hash: HGETALL's mapping, or a script's flat list of names and values."""
    if isinstance(reply, Mapping):
        return {text(name): text(value) for name, value in reply.items()}
    flat = [text(part) for part in reply]
    return dict(zip(flat[::2], flat[1::2], strict=True))
