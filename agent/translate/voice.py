"""The text of an answer, or its thinking, over a whole turn: each word once. Pure.

A stream may break, and another try of the message follows. What was shown of the first one since
its last finished block is remembered: its repetition is swallowed as long as it says the same, and
where it differs the new text follows a visible rule. `agent.translate.translator` knows when a
message is another try, goes on in mid-sentence, or is a new one.
"""

from __future__ import annotations

from collections.abc import Iterator

from infra.wire.characters import Pieces, whole
from infra.wire.events import Event, TextDelta, ThinkingDelta

RULE = "\n\n---\n\n"
"""Stands between an abandoned text and the one that replaces it."""

PARAGRAPH = "\n\n"
"""Stands between two texts with something else between them."""


class Voice:
    """One kind of text.

    `_partial` is what was shown since the last finished block. While that is repeated it is
    `_shown`; `_repeated` is how much of it the repetition has said so far, `_anchor` how much of
    that is in finished blocks.
    """

    def __init__(self, delta: type[TextDelta | ThinkingDelta], *, is_kept: bool) -> None:
        """`is_kept`: a finished block is final; else another try may say that again too."""
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
        """Whether something stands there that another try may say again."""
        return bool(self._shown or self._partial)

    def begin_block(self, *, opening: str = "", is_apart: bool) -> Iterator[Event]:
        """A new block; `is_apart`: something else stands between it and the text before.

        `opening` is the text its start has already.
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
        """The block is complete, and this is all of it: say what its stream left out."""
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
        """Its stream broke: what is not in a finished block may come again."""
        self._pieces.forget()
        # A try that only repeated showed nothing new: what stands there is the try before.
        self._shown = self._shown or "".join(self._partial)
        self._partial, self._repeated = [], self._anchor

    def settle(self) -> Iterator[Event]:
        """The message is over; one that is shorter than its first try is said again."""
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
        """It is another text than was shown: rule that off and say it whole."""
        self._partial, self._shown, self._is_paragraph = [text], "", False
        self._repeated = self._anchor = 0
        yield self._delta(text=RULE + text)

    def _speak(self, text: str) -> Event:
        prefix = PARAGRAPH if self._is_paragraph else ""
        self._is_paragraph, self._has_spoken = False, True
        return self._delta(text=prefix + text)
