"""Characters that arrive in two halves. Pure.

JSON writes a character outside the basic plane as two escapes. A model's text may be split between
them, or contain only one of them. Such a half cannot be encoded as UTF-8, and many clients fail on
it.
"""

from __future__ import annotations

LOST = "\ufffd"
"""Replaces half a character whose other half is missing."""

_HIGH_FIRST, _HIGH_LAST = "\ud800", "\udbff"


def whole(text: str) -> str:
    """The text with matching halves joined and all others replaced by `LOST`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class Pieces:
    """A text that arrives in pieces, which may split a character."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        """The text that is complete with this piece. A half character at its end waits for the
        other half."""
        text, self._half = self._half + piece, ""
        if text and _HIGH_FIRST <= text[-1] <= _HIGH_LAST:
            text, self._half = text[:-1], text[-1]
        return whole(text)

    def end(self) -> str:
        """The remaining text; no more pieces follow."""
        half, self._half = self._half, ""
        return LOST if half else ""

    def forget(self) -> None:
        """Drop what still waits."""
        self._half = ""
