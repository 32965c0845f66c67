"""The official openai client for node: whole answers, streams, an abort, refusals."""

from __future__ import annotations

import itertools
import time
import uuid
from typing import Any

import pytest

from tests.e2e.clients.node import ClientFailed, LineProgram
from tests.e2e.deployments import MODEL

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]


CHAT = {"X-Conversation-ID": f"node-{uuid.uuid4()}"}
"""One agent for all: each test sends its new message only."""


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def text_of(chunk: dict[str, Any]) -> str:
    choices = chunk["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""


def test_whole_answer(openai_node: LineProgram) -> None:
    answer = openai_node.ask("whole", messages=user("echo hello there"), headers=CHAT)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "hello there"
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] > 0


def test_stream_arrives_delta_by_delta_with_its_usage(openai_node: LineProgram) -> None:
    call = openai_node.start(
        "stream",
        messages=user("stream 20 deltas every 50 ms"),
        body={"stream_options": {"include_usage": True}},
        headers=CHAT,
    )
    arrivals = [time.monotonic() for chunk in call.events() if text_of(chunk)]
    chunks = call.result()
    assert arrivals[-1] - arrivals[0] > 0.5, "the text came in one block"
    stamps = [int(word.split("@")[0]) for word in "".join(map(text_of, chunks)).split()]
    assert stamps == list(range(20))
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_abort_frees_the_conversation(openai_node: LineProgram) -> None:
    call = openai_node.start("stream", messages=user("stream 600 deltas every 50 ms"), headers=CHAT)
    assert len([text for text in map(text_of, itertools.islice(call.events(), 6)) if text]) > 2
    openai_node.ask("abort", stream=call.id)
    call.result()
    began = time.monotonic()
    answer = openai_node.ask("whole", messages=user("history"), headers=CHAT)
    assert time.monotonic() - began < 10
    told = answer["choices"][0]["message"]["content"]
    assert told.endswith('"stream 600 deltas every 50 ms", "history"]')


def test_refusals_have_their_class_and_field(openai_node: LineProgram) -> None:
    with pytest.raises(ClientFailed, match="NotFoundError") as refused:
        openai_node.ask("whole", messages=user("echo x"), body={"model": "gpt-99"})
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    with pytest.raises(ClientFailed, match="BadRequestError") as refused:
        openai_node.ask("whole", messages=[])
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_models_are_listed(openai_node: LineProgram) -> None:
    assert MODEL in [model["id"] for model in openai_node.ask("models")]
