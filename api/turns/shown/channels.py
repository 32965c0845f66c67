"""Splits a turn's events into the two channels of an answer: reasoning and text.

Dialects render the result. This module knows no dialect.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from json.encoder import encode_basestring_ascii
from typing import cast

from api.turns.chain import AnswerHead
from infra.runtime.settings import ToolDisplay
from infra.wire.errors import ErrorCode, TurnFailed, UnknownMessage
from infra.wire.events import (
    ClientCall,
    Event,
    TurnEnded,
    TurnStarted,
    decode_event,
    is_client_call,
    is_end,
    text_literal,
    thinking_literal,
)
from infra.wire.history.answers import SubAgents, describe
from infra.wire.states import TurnState

_QUIET = (b'{"type":"started"', b'{"type":"notice"')


def is_sight(payload: bytes) -> bool:
    """Whether the event settles a stream's status: the answer has begun, or ended."""
    return not payload.startswith(_QUIET)


class PieceKind(Enum):
    """What a piece of an answer is."""

    TEXT = 1
    THINKING = 2
    TOOL = 3


class Channels:
    """Splits a turn's events into the two channels of an answer, with line breaks between.

    `pieces` gives `(is_reasoning, literal)` pairs of JSON string literals; a text delta's literal
    is passed unchanged. Line breaks are added where a channel changes between thinking, tool lines
    and text. (The agent adds the paragraphs of the text itself, because it knows where a message
    ends.)
    """

    def __init__(self, display: ToolDisplay, *, head: AnswerHead | None = None) -> None:
        """`head` gets the answer's text as it is shown."""
        self._display = display
        self._head = head
        self._last: dict[bool, bytes] = {}
        """The newest literal of each channel, by `is_reasoning`."""
        self._kind: dict[bool, PieceKind] = {}
        self._sub_agents = SubAgents()
        self.has_form = False
        """Whether the text is JSON, to which nothing may be added."""
        self.unknown = 0
        """The number of skipped events of unknown types."""

    def piece(self, payload: bytes) -> tuple[bool, bytes] | None:
        """The output of one event, if any. End events have none."""
        literal = text_literal(payload)
        if literal is not None:
            return self._shown(False, PieceKind.TEXT, literal)
        literal = thinking_literal(payload)
        if literal is not None:
            if self._display is ToolDisplay.OFF:
                return None
            return self._shown(self._is_reasoning, PieceKind.THINKING, literal)
        line = None if is_end(payload) else self._line(payload)
        if line is None or self._display is ToolDisplay.OFF:
            return None
        return self._shown(
            self._are_tools_reasoning, PieceKind.TOOL, encode_basestring_ascii(line + "\n").encode()
        )

    def plain(self, payloads: Sequence[bytes]) -> tuple[bool, list[bytes]] | None:
        """The pieces of several deltas, `(is_reasoning, literals)`, if they only continue what was
        shown last in their channel. Otherwise None, and nothing has changed.

        Deltas of thinking that is not shown have no pieces.
        """
        text = [text_literal(payload) for payload in payloads]
        if None not in text:
            return self._continued(False, PieceKind.TEXT, cast(list[bytes], text))
        thinking = [thinking_literal(payload) for payload in payloads]
        if None in thinking:
            return None
        if self._display is ToolDisplay.OFF:
            return self._is_reasoning, []
        return self._continued(self._is_reasoning, PieceKind.THINKING, cast(list[bytes], thinking))

    def call(self, payload: bytes) -> ClientCall | None:
        """The call of a client's function that an event is; None for any other event."""
        if not is_client_call(payload):
            return None
        call = decode_event(payload)
        assert isinstance(call, ClientCall), "its beginning was checked with it"
        if self._head is not None and not call.is_legacy:
            self._head.add_call(call.id)
        return call

    def note(self, line: str) -> bytes:
        """The literal of a line of our own in the reasoning."""
        return self._shown(True, PieceKind.TOOL, encode_basestring_ascii(line + "\n").encode())[1]

    @property
    def _is_reasoning(self) -> bool:
        """Whether thinking is."""
        return self._display is ToolDisplay.REASONING

    @property
    def _are_tools_reasoning(self) -> bool:
        return self._is_reasoning

    def _is_said(self, kind: PieceKind) -> bool:
        """Whether what is shown in the text comes back as a part of the answer."""
        return True

    def _continued(
        self, is_reasoning: bool, kind: PieceKind, literals: list[bytes]
    ) -> tuple[bool, list[bytes]] | None:
        is_headed = self._head is None or is_reasoning or self._head.is_full
        if not is_headed or self._kind.get(is_reasoning) is not kind:
            return None
        for literal in reversed(literals):
            if literal != b'""':
                self._last[is_reasoning] = literal
                break
        return is_reasoning, literals

    def _shown(self, is_reasoning: bool, kind: PieceKind, literal: bytes) -> tuple[bool, bytes]:
        if self._kind.get(is_reasoning) is not kind:
            if not literal.startswith(b'"\\n'):
                literal = self._break(is_reasoning, kind) + literal[1:]
            self._kind[is_reasoning] = kind
        if literal != b'""':
            self._last[is_reasoning] = literal
        is_headed = self._head is not None and not is_reasoning and self._is_said(kind)
        if is_headed and self._head is not None and not self._head.is_full:
            self._head.add(json.loads(literal))
        return is_reasoning, literal

    def _break(self, is_reasoning: bool, kind: PieceKind) -> bytes:
        """The opening quote, and the line breaks between this piece and the text before it."""
        last = self._last.get(is_reasoning, b'""')
        if last == b'""':
            return b'"'
        if not last.endswith(b'\\n"'):
            return b'"\\n' if is_reasoning else b'"\\n\\n'
        # After tool lines the answer's own text starts a new paragraph.
        after_lines = self._kind.get(is_reasoning) is PieceKind.TOOL and kind is not PieceKind.TOOL
        return b'"\\n' if after_lines and not is_reasoning else b'"'

    def _line(self, payload: bytes) -> str | None:
        try:
            event = decode_event(payload)
        except UnknownMessage:
            self.unknown += 1
            return None
        if isinstance(event, TurnStarted) and event.has_form:
            self._keep_apart()
        return self._told(self._sub_agents.signed(event))

    def _told(self, event: Event) -> str | None:
        """The line that an event adds."""
        return describe(event)

    def _keep_apart(self) -> None:
        """The text is JSON: whatever else is shown is reasoning."""
        self.has_form = True
        if self._display in (ToolDisplay.TEXT, ToolDisplay.INLINE):
            self._display = ToolDisplay.REASONING


def read_end(payload: bytes) -> TurnEnded:
    """The end event of a good turn. Raises `TurnFailed` for any other end."""
    end = decode_event(payload)
    assert isinstance(end, TurnEnded), "only an end event ends a turn"
    if end.state is TurnState.DONE and end.error is None:
        return end
    if end.error is not None:
        raise TurnFailed(
            end.error.message, code=end.error.code, retry_after_s=end.error.retry_after_s
        )
    cancelled = end.state is TurnState.CANCELLED
    raise TurnFailed("", code=ErrorCode.TURN_CANCELLED if cancelled else ErrorCode.AGENT_FAILED)
