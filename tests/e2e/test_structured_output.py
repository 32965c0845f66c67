"""Answers that have to be JSON, as programs ask for them: OpenAI's own client, unchanged."""

from __future__ import annotations

import json
import os
import signal
import uuid
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import MODEL, Deployment
from tests.e2e.test_interruptions import program

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.parametrize("deployment", KINDS[1:2], indirect=True),
]

GOOD = '{"city":"Rome","days":3,"pace":"slow","next":null}'
WRONG = '{"city":"Rome","days":"three","pace":"slow","next":null}'


class Trip(BaseModel):
    city: str
    days: int
    pace: Literal["slow", "fast"]
    next: Trip | None


ROME = Trip(city="Rome", days=3, pace="slow", next=None)


def user(text: str) -> ChatCompletionMessageParam:
    return {"role": "user", "content": text}


def named() -> dict[str, str]:
    return {"X-Conversation-ID": f"form-{uuid.uuid4()}"}


def test_an_agent_is_parsed_and_its_conversation_goes_on(deployment: Deployment) -> None:
    """The history that comes back has the JSON as the answer; the agent goes on from its own."""
    chat, headers = deployment.client().chat.completions, named()
    first = user(f"say Let me see + tool bash echo hi then json {GOOD}")
    parsed = chat.parse(model=MODEL, messages=[first], response_format=Trip, extra_headers=headers)
    message = parsed.choices[0].message
    assert message.parsed == ROME
    assert message.content == GOOD
    assert parsed.choices[0].finish_reason == "stop"
    assert parsed.usage is not None
    assert parsed.usage.completion_tokens > 0
    answer: ChatCompletionMessageParam = {"role": "assistant", "content": message.content}
    again = chat.create(
        model=MODEL, messages=[first, answer, user("assistants")], extra_headers=headers
    )
    # The model was told its own call, not the text that the client has.
    assert json.loads(again.choices[0].message.content or "") == [["Let me see"], []]


def test_a_stream_is_parsed_and_holds_nothing_but_the_json(deployment: Deployment) -> None:
    with deployment.client().chat.completions.stream(
        model=MODEL,
        messages=[user(f"echo I think it is Rome. then json {WRONG} then json {GOOD}")],
        response_format=Trip,
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(pieces) == GOOD
    assert final.choices[0].message.parsed == ROME


def test_an_object_of_any_shape(deployment: Deployment) -> None:
    answer = deployment.client().chat.completions.create(
        model=MODEL, messages=[user('json {"a":[1]}')], response_format={"type": "json_object"}
    )
    assert answer.choices[0].message.content == '{"a":[1]}'


def test_a_side_request_is_parsed(deployment: Deployment) -> None:
    parsed = deployment.client().chat.completions.parse(
        model=MODEL,
        messages=[user("Any words")],
        response_format=Trip,
        extra_headers={"X-Task": "title_generation"},
    )
    assert isinstance(parsed.choices[0].message.parsed, Trip)


@pytest.mark.parametrize("headers", [{}, {"X-Task": "title_generation"}], ids=["agent", "side"])
def test_a_model_that_never_complies_is_an_error(
    deployment: Deployment, headers: dict[str, str]
) -> None:
    chat = deployment.client().chat.completions
    never: Any = {
        "model": MODEL,
        "messages": [user(" then ".join(["echo Rome, for three days."] * 5))],
        "response_format": {"type": "json_object"},
        "extra_headers": headers,
    }
    with pytest.raises(openai.APIStatusError) as whole:
        chat.create(**never)
    assert (whole.value.status_code, whole.value.code) == (502, "structured_output_failed")
    assert whole.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError) as streamed:
        assert [c for c in chat.create(**never, stream=True) if c.choices[0].delta.content] == []
    assert streamed.value.code == "structured_output_failed"


def test_a_schema_that_cannot_be_kept_is_refused_with_its_place(deployment: Deployment) -> None:
    loose: Any = {"type": "object", "properties": {"x": {"type": "object"}}, "required": ["x"]}
    form: Any = {"name": "t", "strict": True, "schema": loose | {"additionalProperties": False}}
    with pytest.raises(openai.BadRequestError) as refused:
        deployment.client().chat.completions.create(
            model=MODEL,
            messages=[user("echo hi")],
            response_format={"type": "json_schema", "json_schema": form},
        )
    place = "response_format.json_schema.schema.properties.x.additionalProperties"
    assert refused.value.param == place


def test_a_worker_killed_before_the_object_costs_it_nothing(deployment: Deployment) -> None:
    with deployment.client().chat.completions.stream(
        model=MODEL,
        messages=[user(f"stream 60 deltas every 100 ms plain then json {GOOD}")],
        response_format=Trip,
        extra_headers=named(),
    ) as stream:
        pieces: list[str] = []
        for count, event in enumerate(stream):
            if count == 20:
                os.kill(program(deployment, "worker.main"), signal.SIGKILL)
            if event.type == "content.delta":
                pieces.append(event.delta)
        final = stream.get_final_completion()
    assert "".join(pieces) == GOOD
    assert final.choices[0].message.parsed == ROME
