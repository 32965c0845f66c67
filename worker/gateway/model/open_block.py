"""The block of text that a streamed answer is in the middle of. Pure.

When a model's stream breaks in mid-block, the CLI forgets what was said and has the whole message
said again, in other words than the reader has seen. A finished block it keeps, and has the model go
on from there. So a text that breaks off is finished here, as it stands. Thoughts, which are signed,
and tool calls cannot be finished by anybody else.

Nothing can be put into half an event. So events are passed on whole: the bytes behind the last one
wait for the rest of theirs.
"""

from __future__ import annotations

import re

HELD_MAX_BYTES = 1024 * 1024
"""Of an event that is not whole yet. A longer one is passed on as it comes."""

_GAPS = (b"\n\n", b"\r\n\r\n")
"""What stands between two events."""
_GAP_MAX_BYTES = max(map(len, _GAPS))
_START = b"event: content_block_start\n"
_STOP = b"event: content_block_stop\n"
_ERROR = b"event: error"
_ERROR_LINE = re.compile(rb"^event: error\r?$", re.MULTILINE)
_TEXT = re.compile(
    rb'data: ?\{[^{}]*"index": ?(\d+)[^{}]*"content_block": ?\{[^{}]*"type": ?"text"'
)
_WORDS = re.compile(rb'"text_delta", ?"text": ?"(?:\\[nrt]|\s)*(?:[^\s"\\]|\\[u"\\/])')
"""A delta with more than blanks: the Messages API takes no empty text back."""


class OpenBlock:
    """Watches the bytes of one streamed answer, cut anywhere, on their way."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._index: int | None = None
        self._has_words = False
        self.is_between_events = True
        """What was passed on ends with a whole event."""

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes; returns what is passed on: an error only after a finished block."""
        self._held += chunk
        end = self._end_of_events(len(self._held) - len(chunk))
        if end:
            self.is_between_events = True
        elif len(self._held) > HELD_MAX_BYTES or not self.is_between_events:
            # The last bytes may be the first half of a gap.
            end = max(len(self._held) - _GAP_MAX_BYTES, 0)
            self.is_between_events = False
        passed = bytes(self._held[:end])
        del self._held[:end]
        return self._with_ending(passed)

    def rest(self) -> bytes:
        """What is left at the end of a whole answer."""
        rest = bytes(self._held)
        self._held.clear()
        return rest

    def ending(self) -> bytes:
        """What finishes the block, if it is one of text; it is open no longer."""
        index, self._index = self._index, None
        if index is None or not self._has_words or not self.is_between_events:
            return b""
        return b'%bdata: {"type":"content_block_stop","index":%d}\n\n' % (_STOP, index)

    def _end_of_events(self, known: int) -> int:
        """Where the last gap ends; 0: there is none. In the `known` first bytes there was none."""
        searched = max(known - _GAP_MAX_BYTES, 0)
        found = ((self._held.rfind(gap, searched), len(gap)) for gap in _GAPS)
        return max((at + size for at, size in found if at >= 0), default=0)

    def _with_ending(self, passed: bytes) -> bytes:
        if _ERROR in passed and (error := _ERROR_LINE.search(passed)):
            at = error.start()
            self._read(passed[:at])
            return passed[:at] + self.ending() + passed[at:]
        self._read(passed)
        return passed

    def _read(self, events: bytes) -> None:
        if b"\r" in events:
            events = events.replace(b"\r\n", b"\n")
        start = events.rfind(_START)
        if events.rfind(_STOP) > start:
            self._index = None
        elif start >= 0:
            found = _TEXT.match(events, start + len(_START))
            self._index, self._has_words = (int(found[1]) if found else None), False
            events = events[start:]
        if self._index is not None and not self._has_words:
            self._has_words = _WORDS.search(events) is not None
