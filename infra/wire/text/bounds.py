"""Ends an answer where its client wants: before a stop sequence, or at a number of tokens. Pure.

Text that may be the beginning of a stop sequence is held back until it is decided, so no part of a
sequence is ever shown. Nobody tells the tokens of an unfinished text, so they are estimated from
its size. An answer near its limit may so be cut a little below it, or go on beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence

from infra.wire.events import EndReason

BYTES_PER_TOKEN = 4
"""English has about this many bytes of UTF-8 for each token: more with long words, fewer in code.
Other scripts have fewer characters for each, but of two to four bytes."""


class TextBounds:
    """The text of one answer. `ended` says why it was cut; None as long as it goes on."""

    def __init__(self, *, stop: Sequence[str] = (), max_tokens: int | None = None) -> None:
        """`max_tokens` None: no limit."""
        self._stop = stop
        self._left_bytes = None if max_tokens is None else max_tokens * BYTES_PER_TOKEN
        self._held = ""
        self.ended: EndReason | None = None

    def add(self, text: str) -> str:
        """More text of the answer. Returns what is shown of all that was held back."""
        if self.ended is not None:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            # The first that is complete, in whatever pieces the text comes.
            _, start = min(found)
            self._held = ""
            shown = self._within(text[:start])
            self.ended = self.ended or EndReason.DONE
            return shown
        held = max((_begun(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return self._within(text[: len(text) - held])

    def release(self) -> str:
        """What was held back, if the text goes no further for now."""
        text, self._held = self._held, ""
        return "" if self.ended is not None else self._within(text)

    def _within(self, text: str) -> str:
        """The part of the text within the limit."""
        if self._left_bytes is None:
            return text
        size = len(text.encode())
        if size <= self._left_bytes:
            self._left_bytes -= size
            return text
        self.ended = EndReason.LENGTH
        self._held = ""
        return text.encode()[: self._left_bytes].decode(errors="ignore")


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of the text may be the beginning of the sequence."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
