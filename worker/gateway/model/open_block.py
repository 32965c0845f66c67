"""Tracks the text block that a streamed answer is in the middle of. Pure.

If a model's stream breaks in the middle of a block, the CLI forgets the block and requests the
whole message again, and the model chooses other words than the reader has seen. The CLI keeps a
finished block and asks the model to continue from there. So the gateway finishes a broken text
block itself. Nobody else can finish thoughts, which are signed, or tool calls.

Nothing can be inserted into a partial event. So events are passed on as a whole: bytes after the
last complete event wait for the rest of theirs.
"""

from __future__ import annotations

import re

HELD_MAX_BYTES = 1024 * 1024
"""Maximum size of a waiting partial event. A longer one is passed on as it arrives."""

_GAPS = (b"\n\n", b"\r\n\r\n")
"""The separator between two events."""
_GAP_MAX_BYTES = max(map(len, _GAPS))
_START = b"event: content_block_start\n"
_STOP = b"event: content_block_stop\n"
_ERROR = b"event: error"
_ERROR_LINE = re.compile(rb"^event: error\r?$", re.MULTILINE)
_TEXT = re.compile(
    rb'data: ?\{[^{}]*"index": ?(\d+)[^{}]*"content_block": ?\{[^{}]*"type": ?"text"'
)
_WORDS = re.compile(rb'"text_delta", ?"text": ?"(?:\\[nrt]|\s)*(?:[^\s"\\]|\\[u"\\/])')
"""A delta with more than whitespace, because the Messages API does not accept empty text back."""


class OpenBlock:
    """Watches the bytes of one streamed answer as they pass, in pieces of any size."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._index: int | None = None
        self._has_words = False
        self.is_between_events = True
        """Whether the bytes passed on so far end with a complete event."""

    def feed(self, chunk: bytes) -> bytes:
        """Add the next bytes. Returns the bytes to pass on; an error is passed on only after a
        finished block."""
        self._held += chunk
        end = self._end_of_events(len(self._held) - len(chunk))
        if end:
            self.is_between_events = True
        elif len(self._held) > HELD_MAX_BYTES or not self.is_between_events:
            # The last bytes may be the first half of a separator.
            end = max(len(self._held) - _GAP_MAX_BYTES, 0)
            self.is_between_events = False
        passed = bytes(self._held[:end])
        del self._held[:end]
        return self._with_ending(passed)

    def rest(self) -> bytes:
        """The remaining bytes at the end of a complete answer."""
        rest = bytes(self._held)
        self._held.clear()
        return rest

    def ending(self) -> bytes:
        """The events that finish a text block, if one is open; afterwards it is not."""
        index, self._index = self._index, None
        if index is None or not self._has_words or not self.is_between_events:
            return b""
        return b'%bdata: {"type":"content_block_stop","index":%d}\n\n' % (_STOP, index)

    def _end_of_events(self, known: int) -> int:
        """The position after the last separator; 0 if there is none. The first `known` bytes
        contain none."""
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
