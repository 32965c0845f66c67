"""Reads a stream of server-sent events as a client does."""

from __future__ import annotations

from typing import NamedTuple


class Block(NamedTuple):
    """One event: where it stands, and its data."""

    id: int | None
    data: str


def blocks_of(stream: str | bytes) -> list[Block]:
    """All events, in order. Comments are left out; every event must have data."""
    text = stream.decode() if isinstance(stream, bytes) else stream
    *whole, rest = text.split("\n\n")
    assert rest == "", f"the stream breaks off: {rest!r}"
    return [_block(block) for block in whole]


def data_of(stream: str | bytes) -> list[str]:
    """The data of all events."""
    return [block.data for block in blocks_of(stream)]


def _block(block: str) -> Block:
    lines = [line for line in block.split("\n") if not line.startswith(":")]
    fields = dict(line.split(": ", 1) for line in lines)
    assert set(fields) <= {"id", "data"}, block
    return Block(int(fields["id"]) if "id" in fields else None, fields["data"])
