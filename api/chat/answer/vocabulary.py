"""Translates between a turn and OpenAI's terms: its id, why it ended, what it used."""

from __future__ import annotations

import re
from collections.abc import Mapping

from api.chat.answer.shapes import (
    CompletionTokensDetails,
    CompletionUsage,
    FinishReason,
    PromptTokensDetails,
)
from infra.wire.errors import TurnNotFound
from infra.wire.events import EndReason, Usage
from infra.wire.ids import TURN_PREFIX, TurnId

COMPLETION_PREFIX = "chatcmpl-"

FINISH_REASONS: Mapping[EndReason, FinishReason] = {
    EndReason.DONE: "stop",
    EndReason.CALLS: "tool_calls",
    EndReason.LENGTH: "length",
    EndReason.REFUSED: "content_filter",
}


def finish_reason(end: EndReason, *, is_legacy: bool = False) -> FinishReason:
    """OpenAI's word for it. `is_legacy`: the calls are told in the older form."""
    reason = FINISH_REASONS[end]
    return "function_call" if is_legacy and reason == "tool_calls" else reason


_ID = re.compile(rf"(?:{COMPLETION_PREFIX}|{TURN_PREFIX})([0-9a-f]{{32}})")


def completion_id(turn: TurnId) -> str:
    """A turn's id in this dialect: the same digits with another prefix."""
    return COMPLETION_PREFIX + turn.removeprefix(TURN_PREFIX)


def turn_of(id: str) -> TurnId:
    """The turn for a completion's id, or for the turn's own id, which `/v1/sessions` shows.

    Raises `TurnNotFound` for anything else.
    """
    if (found := _ID.fullmatch(id)) is None:
        raise TurnNotFound(id)
    return TurnId(TURN_PREFIX + found[1])


def usage_of(usage: Usage) -> CompletionUsage:
    """The tokens of a turn."""
    return CompletionUsage(
        prompt_tokens=usage.total_input_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.total_input_tokens + usage.output_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cache_read_input_tokens),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=usage.thinking_tokens),
    )
