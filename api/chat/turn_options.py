"""Reads the options that a chat request names for its turn. Pure."""

from __future__ import annotations

from api.chat.answer_form import read_answer_form
from api.chat.request import ChatRequest
from infra.wire.options import TurnOptions


def read_turn_options(chat: ChatRequest) -> TurnOptions:
    """Raises `RequestRefused` for an invalid value."""
    return TurnOptions(max_tokens=chat.bound, answer_form=read_answer_form(chat))
