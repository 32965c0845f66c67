"""Reads the options that a chat request names for its turn. Pure."""

from __future__ import annotations

from api.chat.options.answer_form import read_answer_form
from api.chat.options.bounds import read_effort, read_stop, read_verbosity
from api.chat.options.client_tools import read_client_tools
from api.chat.request import ChatRequest
from infra.wire.options import Sampling, TurnOptions


def read_turn_options(chat: ChatRequest, *, has_tools: bool) -> TurnOptions:
    """`has_tools`: the agent may call what the client sends as its tools. Raises `RequestRefused`
    for an invalid value."""
    return TurnOptions(
        max_tokens=chat.bound,
        stop=read_stop(chat),
        effort=read_effort(chat),
        verbosity=read_verbosity(chat),
        sampling=Sampling(temperature=chat.temperature, top_p=chat.top_p),
        answer_form=read_answer_form(chat),
        client_tools=read_client_tools(chat) if has_tools else None,
    )
