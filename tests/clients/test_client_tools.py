"""The loop of each library: the agent calls the program's function, and goes on with its result."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Family
from tests.e2e.deployments import Deployment
from tests.e2e.upstream import last_asked

pytestmark = pytest.mark.timeout(240)

ROME = 'tool get_weather {"city":"Rome"}'
WORK = f"tool bash echo before then {ROME} then tool bash echo after then echo It is nice."
"""The agent's own tool before and after the call of the program's function."""


@pytest.mark.parametrize(
    ("program", "choice"),
    [
        ("openai_py.py", None),
        ("openai_py.py", "required"),
        ("openai_node.cjs", None),
        ("langchain_py.py", None),
        ("langchain_py.py", "any"),
        ("langchain_node.cjs", None),
        ("langchain_node.cjs", "any"),
        ("pydantic_ai_py.py", None),
        ("ai_sdk.cjs", None),
        ("ai_sdk.cjs", "required"),
        ("litellm_py.py", None),
        ("litellm_py.py", "required"),
        ("librechat.cjs", None),
    ],
)
def test_a_function_is_called_and_its_result_is_used(
    deployment: Deployment, family: Family, program: str, choice: str | None
) -> None:
    told = family(program).ask("loop", prompt=WORK, choice=choice)
    assert told["called"] == [["get_weather", {"city": "Rome"}]]
    assert told["text"] == "It is nice."
    results = [
        str(block.get("content"))
        for message in last_asked(deployment)["messages"]
        if message["role"] == "user" and isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    assert len(results) == 3
    for result, word in zip(results, ("before", "sunny in Rome", "after"), strict=True):
        assert word in result


def test_calls_at_the_same_time_come_together(family: Family) -> None:
    both = (
        'tools get_weather {"city":"Rome"} ;; get_weather {"city":"Oslo"} then echo Both are nice.'
    )
    for program in ("openai_py.py", "langchain_py.py", "ai_sdk.cjs"):
        told = family(program).ask("loop", prompt=both)
        assert sorted(given["city"] for _, given in told["called"]) == ["Oslo", "Rome"]
        assert told["text"] == "Both are nice."


def test_a_stream_has_the_call_in_pieces(family: Family) -> None:
    told = family("openai_py.py").ask("calls_streamed", prompt=f"{ROME} then echo done")
    assert told == {"called": [["get_weather", {"city": "Rome"}]], "finish": "tool_calls"}
