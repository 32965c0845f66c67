"""The options that a chat request names for its turn."""

from __future__ import annotations

import json

import pytest

from api.chat.options.turn_options import read_turn_options
from api.chat.request import read_chat_request


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        ({"max_tokens": 1000}, 1000),
        ({"max_completion_tokens": 50, "max_tokens": 1000}, 50),
        ({"max_tokens": None}, None),
        ({}, None),
    ],
)
def test_the_clients_bound_counts(body: dict[str, int | None], bound: int | None) -> None:
    raw = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    options = read_turn_options(read_chat_request(json.dumps(raw).encode()), has_tools=True)
    assert options.max_tokens == bound
