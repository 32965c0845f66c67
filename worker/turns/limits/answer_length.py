"""The length that a turn's client set for its answer, held against an agent that ignores it."""

from __future__ import annotations

import json

from infra.wire.events import TextDelta, encode_event, text_literal
from infra.wire.text.bounds import TextBounds


class AnswerLength:
    """The visible text of one turn. The agent has cut it at the same place already."""

    def __init__(self, max_tokens: int | None) -> None:
        """`max_tokens` None: no limit."""
        self._bounds = None if max_tokens is None else TextBounds(max_tokens=max_tokens)

    def cut(self, payload: bytes) -> bytes | None:
        """What is left of an event with which the answer gets too long, empty for nothing. None for
        any other event."""
        if self._bounds is None or (literal := text_literal(payload)) is None:
            return None
        shown = self._bounds.add(json.loads(literal))
        if self._bounds.ended is None:
            return None
        return encode_event(TextDelta(text=shown)) if shown else b""
