"""Shows tools inside an answer's text, a line each where they ran, and thinking as reasoning.

For clients that gather all reasoning of an answer in one block and fold nothing in its text, as
LibreChat does. The lines come back with the next request:
`infra.wire.history.answers.without_folded` takes them out.
"""

from __future__ import annotations

import re

from api.turns.chain import AnswerHead
from api.turns.shown.channels import Channels, PieceKind
from infra.runtime.settings import ToolDisplay
from infra.wire.events import Event
from infra.wire.history.answers import LINE_OPENING, describe

_LINE_MAX_CHARS = 240
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


class LinedChannels(Channels):
    """The channels of an answer whose text has a line for each call and each result.

    An answer that has to be JSON has nothing inside its text: it falls back to the reasoning.
    """

    def __init__(self, *, head: AnswerHead | None = None) -> None:
        super().__init__(ToolDisplay.LINES, head=head)

    @property
    def _is_reasoning(self) -> bool:
        return True  # The thinking. Only tools are in the text.

    @property
    def _are_tools_reasoning(self) -> bool:
        return self.has_form

    def _is_said(self, kind: PieceKind) -> bool:
        return kind is PieceKind.TEXT  # The lines do not come back.

    def _shown(self, is_reasoning: bool, kind: PieceKind, literal: bytes) -> tuple[bool, bytes]:
        self._part_thoughts(is_reasoning)
        return super()._shown(is_reasoning, kind, literal)

    def _continued(
        self, is_reasoning: bool, kind: PieceKind, literals: list[bytes]
    ) -> tuple[bool, list[bytes]] | None:
        shown = super()._continued(is_reasoning, kind, literals)
        if shown is not None:
            self._part_thoughts(is_reasoning)
        return shown

    def _part_thoughts(self, is_reasoning: bool) -> None:
        """What is thought after this begins on a new line."""
        if not is_reasoning:
            self._kind.pop(True, None)

    def _told(self, event: Event) -> str | None:
        line = describe(event)
        if line is None or self.has_form:
            return line
        # What a program printed, or the model chose, means nothing here: no pictures, no links.
        shown = _PUNCTUATION.sub(r"\\\1", " ".join(line.split())[:_LINE_MAX_CHARS])
        return LINE_OPENING + shown
