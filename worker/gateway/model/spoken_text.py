"""Counts the text that the model says in one turn, against the limit that the turn's client set.

The agent cuts the answer at the limit, and the worker lets no more pass. Neither can end a call of
the model that an agent keeps reading; only the gateway can. Thoughts and tool inputs do not count,
nor does what no user reads: calls of sub-agents, compactions, titles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from infra.wire.text.bounds import BYTES_PER_TOKEN

SLACK_BYTES = 8 * 1024
"""An agent that keeps to the limit has hung up long before this much more text has passed."""

CLASS_HEADER = "x-claude-code-request-class"
SUB_AGENT_HEADER = "x-claude-code-agent-id"
_MAIN = "main"
_TEXT_DELTA = re.compile(rb'"type": ?"text_delta"')


def is_for_user(headers: Mapping[str, str]) -> bool:
    """Whether a call's text is part of the answer, as its CLI says. A CLI that says nothing is
    taken at its worst."""
    if headers.get(SUB_AGENT_HEADER):
        return False
    return headers.get(CLASS_HEADER, _MAIN) == _MAIN


class SpokenText:
    """The text of one turn, over all its calls."""

    def __init__(self, max_tokens: int | None) -> None:
        """`max_tokens` None: no limit, and nothing is counted."""
        self._left_bytes = (
            None if max_tokens is None else max_tokens * BYTES_PER_TOKEN + SLACK_BYTES
        )

    @property
    def is_over(self) -> bool:
        """Whether more was said than the answer can hold."""
        return self._left_bytes is not None and self._left_bytes < 0

    def add(self, events: bytes) -> None:
        """Whole events of a streamed answer."""
        if self._left_bytes is None or _TEXT_DELTA.search(events) is None:
            return
        for line in events.splitlines():
            if line.startswith(b"data:") and _TEXT_DELTA.search(line):
                self._left_bytes -= _text_bytes(line[5:])


def _text_bytes(data: bytes) -> int:
    """The size of a delta's text; all of it, if it cannot be read."""
    try:
        text = json.loads(data)["delta"]["text"]
        return len(text.encode(errors="replace"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return len(data)
