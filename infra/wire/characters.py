"""Characters that arrive in halves. Pure.

JSON spells what lies beyond the basic plane as two escapes, and a model's text may be cut between
them, or hold one of them for good. Half a character cannot be written as UTF-8, and many a client
fails at it.
"""

from __future__ import annotations

LOST = "\ufffd"
"""Stands where half a character has no other half."""

_HIGH_FIRST, _HIGH_LAST = "\ud800", "\udbff"


def whole(text: str) -> str:
    """The text with halves that belong together joined, and others as `LOST`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class Pieces:
    """A text that comes in pieces, which may cut a character in two."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        """What can be told with this piece: a half at its end waits for the other one."""
        text, self._half = self._half + piece, ""
        if text and _HIGH_FIRST <= text[-1] <= _HIGH_LAST:
            text, self._half = text[:-1], text[-1]
        return whole(text)

    def end(self) -> str:
        """No more comes: what is left."""
        half, self._half = self._half, ""
        return LOST if half else ""

    def forget(self) -> None:
        """What waits is not told."""
        self._half = ""
