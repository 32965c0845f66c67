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
    return [_block(block) for block in whole if not _is_comment(block)]


def parts_of(stream: str | bytes) -> list[str]:
    """The data of all events as a simple reader takes it: it knows blank lines and `data:` only.

    Dify's reads so. What is not data shows it broken JSON, or hides the words beside it.
    """
    text = stream.decode() if isinstance(stream, bytes) else stream
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    for block in blocks:
        assert block.startswith("data: "), block
        assert "\n" not in block, block
    return [block.removeprefix("data: ") for block in blocks]


def data_of(stream: str | bytes) -> list[str]:
    """The data of all events."""
    return [block.data for block in blocks_of(stream)]


def _is_comment(block: str) -> bool:
    return all(line.startswith(":") for line in block.split("\n"))


def _block(block: str) -> Block:
    lines = [line for line in block.split("\n") if not line.startswith(":")]
    fields = dict(line.split(": ", 1) for line in lines)
    assert set(fields) <= {"id", "data"}, block
    return Block(int(fields["id"]) if "id" in fields else None, fields["data"])
