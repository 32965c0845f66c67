"""The block of text that a streamed answer is in the middle of. Pure.

When a model's stream breaks in mid-block, the CLI forgets what was said and has the whole message
said again, in other words than the reader has seen. A finished block it keeps, and has the model go
on from there. So a text that breaks off is finished here, as it stands. Thoughts, which are signed,
and tool calls cannot be finished by anybody else.
"""

from __future__ import annotations

import re

_TAIL_MAX_BYTES = 64 * 1024
_START = b"event: content_block_start\n"
_STOP = b"event: content_block_stop\n"
_ERROR = b"event: error\n"
_TEXT = re.compile(
    rb'data: ?\{[^{}]*"index": ?(\d+)[^{}]*"content_block": ?\{[^{}]*"type": ?"text"'
)
_WORDS = re.compile(rb'"text_delta", ?"text": ?"(?:\\[nrt]|\s)*(?:[^\s"\\]|\\[u"\\/])')
"""A delta with more than blanks: the Messages API takes no empty text back."""


class OpenBlock:
    """Watches the bytes of one streamed answer, cut anywhere."""

    def __init__(self) -> None:
        self._tail = b""
        self._is_lost = False
        self._index: int | None = None
        self._has_words = False

    def feed(self, chunk: bytes) -> None:
        """The next bytes that are passed on."""
        events, _, self._tail = (self._tail + chunk).rpartition(b"\n\n")
        if len(self._tail) > _TAIL_MAX_BYTES:
            self._tail, self._is_lost = b"", True
        start = events.rfind(_START)
        if events.rfind(_STOP) > start:
            self._index = None
        elif start >= 0:
            found = _TEXT.match(events, start + len(_START))
            self._index, self._has_words = (int(found[1]) if found else None), False
            events = events[start:]
        if self._index is not None and not self._has_words:
            self._has_words = _WORDS.search(events) is not None

    def ending(self) -> bytes:
        """What finishes the block, if it is one of text and stands between two events."""
        if self._index is None or not self._has_words or self._tail or self._is_lost:
            return b""
        return b'%bdata: {"type":"content_block_stop","index":%d}\n\n' % (_STOP, self._index)

    def error_in(self, chunk: bytes) -> int:
        """Where an error of the upstream begins in the next bytes; -1: there is none."""
        at = chunk.find(_ERROR)
        if at == 0:
            return -1 if self._tail else 0
        return at if at > 0 and chunk[at - 2 : at] == b"\n\n" else -1
