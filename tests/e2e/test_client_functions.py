"""A client's functions on whole deployments, with the official client and real agents.

What is killed meanwhile is tried in `tests/chaos/test_client_functions.py`; here a container goes.
"""

from __future__ import annotations

import subprocess
import uuid
from typing import Any

import pytest

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import MODEL, Deployment
from tests.e2e.upstream import last_asked

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.parametrize("deployment", KINDS[:2], indirect=True),
]

SCHEMA: Any = {
    "type": "object",
    "properties": {"id": {"type": "string"}},
    "required": ["id"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA, "strict": True}}
    for name in ("order_status", "Read")
]
CALL = 'order_status {"id":"17"}'


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def result(call: Any, text: str) -> Any:
    return {"role": "tool", "tool_call_id": call.id, "content": text}


def test_an_agent_works_calls_and_works_again(deployment: Deployment) -> None:
    """One loop as programs write it, streamed, in a conversation without a name."""
    script = (
        f"tool bash echo $RANDOM > kept; cat kept then say Asking. + tool {CALL} then tool bash "
        f'cat kept then tools {CALL} ;; client_Read {{"id":"1"}} then tool bash cat kept'
    )
    messages: list[Any] = [user(f"{uuid.uuid4()} is nothing"), user(script)]
    reasons, asked = [], []
    while True:
        with deployment.client().chat.completions.stream(
            model=MODEL, messages=messages, tools=TOOLS
        ) as stream:
            for _ in stream:
                pass
            (choice,) = stream.get_final_completion().choices
        reasons.append(choice.finish_reason)
        messages.append(choice.message.model_dump(exclude_none=True, include={*FIELDS}))
        if not choice.message.tool_calls:
            break
        asked.append([call.function.name for call in choice.message.tool_calls])
        messages += [result(call, "late") for call in choice.message.tool_calls]
    assert reasons == ["tool_calls", "tool_calls", "stop"]
    assert asked == [["order_status"], ["order_status", "Read"]]
    assert len(_kept_as_told_to_the_model(deployment)) == 1, "one file, seen three times"


FIELDS = ("role", "content", "tool_calls")


def _kept_as_told_to_the_model(deployment: Deployment) -> set[str]:
    """What `cat kept` showed, in the newest request."""
    results = [
        block
        for message in last_asked(deployment)["messages"]
        if message["role"] == "user"
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    told = [str(block["content"]).partition("<")[0].strip() for block in results]
    seen = [text for text in told if text.isdecimal()]
    assert len(seen) == 3
    return set(seen)


def test_the_result_of_a_call_goes_on_in_a_fresh_container(deployment: Deployment) -> None:
    if deployment.kind != "docker":
        return  # Killed in tests/chaos.
    name = {"X-Conversation-ID": f"calls-{uuid.uuid4()}"}
    before = set(deployment.containers())
    messages: list[Any] = [user(f"tool bash echo found it then tool {CALL} then assistants")]
    ask: Any = {"model": MODEL, "tools": TOOLS, "extra_headers": name}
    client = deployment.client()
    message = client.chat.completions.create(messages=messages, **ask).choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    (own,) = set(deployment.containers()) - before
    subprocess.run(["docker", "rm", "-f", own], check=True, capture_output=True, timeout=30)
    messages += [message, result(call, "late")]
    answer = client.chat.completions.create(messages=messages, **ask).choices[0]
    assert (answer.finish_reason, answer.message.content) == ("stop", "[[], []]")
    told = str(last_asked(deployment)["messages"])
    assert "found it" in told
    assert "late" in told


def test_a_call_of_another_service_is_answered_from_the_messages(deployment: Deployment) -> None:
    """A chat that began elsewhere goes on here."""
    call = {"id": "call_elsewhere", "type": "function"}
    call["function"] = {"name": "order_status", "arguments": '{"id":"17"}'}  # type: ignore[assignment]
    messages: list[Any] = [
        user(f"tool {CALL} then echo late indeed"),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_elsewhere", "content": "late"},
    ]
    answer = deployment.client().chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS
    )
    assert answer.choices[0].message.content == "late indeed"


def test_the_function_that_has_to_be_called(deployment: Deployment) -> None:
    choice: Any = {"type": "function", "function": {"name": "order_status"}}
    answer = deployment.client().chat.completions.create(
        model=MODEL,
        messages=[user(f"echo prose then tool {CALL}")],
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert call.function.arguments == '{"id":"17"}'  # type: ignore[union-attr]
    offered = {tool["name"] for tool in last_asked(deployment)["tools"]}
    assert "order_status" in offered
    assert "client_Read" not in offered


def test_a_side_request_calls_functions_too(deployment: Deployment) -> None:
    """LibreChat's titles by `functions` are such a request."""
    messages: list[Any] = [user(f"tool {CALL} then echo done")]
    ask: Any = {"model": "claude-utility", "tools": TOOLS[:1]}
    client = deployment.client()
    (choice,) = client.chat.completions.create(messages=messages, **ask).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    messages += [choice.message, result(choice.message.tool_calls[0], "late")]
    (choice,) = client.chat.completions.create(messages=messages, **ask).choices
    assert (choice.finish_reason, choice.message.content) == ("stop", "done")
