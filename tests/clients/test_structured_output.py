"""Programs ask for an object in the way of their library, and get it."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Family
from tests.e2e.deployments import Deployment
from tests.e2e.upstream import last_asked

pytestmark = pytest.mark.timeout(240)

TRIP = {"city": "Rome", "days": 3}
GIVEN = '{"city":"Rome","days":3}'
FORMED = f"say Let me see + tool bash echo hi then json {GIVEN}"
"""The agent works first, then gives the object."""


def called(name: str) -> str:
    """The library asks for the object as the arguments of a function."""
    return f"tool bash echo hi then tool {name} {GIVEN} then echo done"


@pytest.mark.parametrize(
    ("program", "method", "prompt"),
    [
        ("openai_py.py", "parse", FORMED),
        ("openai_py.py", "stream", FORMED),
        ("openai_node.cjs", "parse", FORMED),
        ("openai_node.cjs", "stream", FORMED),
        ("langchain_py.py", "json_schema", FORMED),
        ("langchain_py.py", "json_mode", FORMED),
        ("langchain_py.py", "function_calling", called("Trip")),
        ("langchain_node.cjs", "jsonSchema", FORMED),
        ("langchain_node.cjs", "jsonMode", FORMED),
        ("langchain_node.cjs", "functionCalling", called("trip")),
        ("pydantic_ai_py.py", "tool", called("final_result")),
        ("pydantic_ai_py.py", "native", FORMED),
        ("pydantic_ai_py.py", "prompted", FORMED),
        ("ai_sdk.cjs", "json_schema", FORMED),
        ("ai_sdk.cjs", "json_object", FORMED),
        ("ai_sdk.cjs", "stream", FORMED),
        ("litellm_py.py", "json_schema", FORMED),
        ("litellm_py.py", "json_object", FORMED),
    ],
)
def test_an_object_is_what_the_library_makes_of_the_answer(
    deployment: Deployment, family: Family, program: str, method: str, prompt: str
) -> None:
    made = family(program).ask("parse", prompt=prompt, method=method)
    assert made == TRIP
    assert "hi" in str(last_asked(deployment)["messages"]), "the agent did not use its own tool"
