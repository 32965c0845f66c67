"""The text of an answer, or its thinking, over a whole turn: each word once. Pure.

A stream may break, and then the model repeats the message. The text shown since the last finished
block is remembered. The repetition is suppressed while it is identical; where it differs, the new
text follows after a visible rule. `agent.translate.translator` knows whether a message is a retry,
continues in mid-sentence, or is new.
"""

from __future__ import annotations

from collections.abc import Iterator

from infra.wire.events import Event, TextDelta, ThinkingDelta
from infra.wire.text.characters import Pieces, whole

RULE = "\n\n---\n\n"
"""Separates an abandoned text from the one that replaces it."""

PARAGRAPH = "\n\n"
"""Separates two texts that had something else between them."""


class Voice:
    """One kind of text.

    `_partial` is the text shown since the last finished block. While a retry repeats it, it is
    `_shown`; `_repeated` is how much of it the retry has repeated, and `_anchor` how much of that
    is in finished blocks.
    """

    def __init__(self, delta: type[TextDelta | ThinkingDelta], *, is_kept: bool) -> None:
        """`is_kept`: a finished block is final; otherwise a retry may repeat it too."""
        self._delta = delta
        self._is_kept = is_kept
        self._pieces = Pieces()
        self._block: list[str] = []
        self._opening = ""
        self._partial: list[str] = []
        self._shown = ""
        self._repeated = self._anchor = 0
        self._has_spoken = False
        self._is_paragraph = False

    @property
    def has_partial(self) -> bool:
        """Whether there is text that a retry may repeat."""
        return bool(self._shown or self._partial)

    def begin_block(self, *, opening: str = "", is_apart: bool) -> Iterator[Event]:
        """A new block starts. `is_apart`: something else lies between it and the text before.

        `opening` is text that its start already contains.
        """
        self._pieces.forget()
        self._block, self._opening = [], whole(opening)
        if is_apart and not self._shown:
            self._is_paragraph = self._has_spoken
        yield from self.say(opening)

    def say(self, piece: str) -> Iterator[Event]:
        """New text of the block."""
        yield from self._add(self._pieces.add(piece))

    def finish(self, text: str) -> Iterator[Event]:
        """The block is complete, and `text` is all of it: report what its stream left out."""
        self._pieces.forget()
        text, streamed = whole(text), "".join(self._block)
        if text.startswith(streamed):
            yield from self._add(text[len(streamed) :])
        elif self._is_kept and text != streamed.removeprefix(self._opening):
            yield from self._replace(text)
        self._block, self._opening = [], ""
        if self._is_kept:
            self._partial, self._anchor = [], self._repeated

    def repeat(self) -> None:
        """The stream broke: text that is not in a finished block may come again."""
        self._pieces.forget()
        # A retry that only repeated showed nothing new: the shown text is that of the first try.
        self._shown = self._shown or "".join(self._partial)
        self._partial, self._repeated = [], self._anchor

    def settle(self) -> Iterator[Event]:
        """The message is over. If a retry is shorter than the first try, its text is shown
        again."""
        yield from self._add(self._pieces.end())
        if self._repeated > self._anchor:
            yield from self._replace(self._shown[self._anchor : self._repeated])
        self._partial, self._shown, self._repeated, self._anchor = [], "", 0, 0

    def _add(self, text: str) -> Iterator[Event]:
        if not text:
            return
        self._block.append(text)
        if not self._shown:
            self._partial.append(text)
            yield self._speak(text)
            return
        rest = self._shown[self._repeated :]
        if rest.startswith(text) and len(text) < len(rest):
            self._repeated += len(text)
        elif text.startswith(rest):
            new = text[len(rest) :]
            self._partial = [self._shown[self._anchor :], new]
            self._shown, self._repeated, self._anchor = "", 0, 0
            if new:
                yield self._speak(new)
        else:
            yield from self._replace(self._shown[self._anchor : self._repeated] + text)

    def _replace(self, text: str) -> Iterator[Event]:
        """The retry's text differs from what was shown: add a rule, then the whole new text."""
        self._partial, self._shown, self._is_paragraph = [text], "", False
        self._repeated = self._anchor = 0
        yield self._delta(text=RULE + text)

    def _speak(self, text: str) -> Event:
        prefix = PARAGRAPH if self._is_paragraph else ""
        self._is_paragraph, self._has_spoken = False, True
        return self._delta(text=prefix + text)
