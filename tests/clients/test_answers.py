"""What every library reads of an answer: its text, its end and its usage."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.conftest import Family

pytestmark = pytest.mark.timeout(240)

ASKING = ["openai_py.py", "openai_node.cjs", "langchain_py.py", "langchain_node.cjs", "ai_sdk.cjs"]
OTHERS = ["litellm_py.py", "pydantic_ai_py.py"]


@pytest.mark.parametrize("program", [*ASKING, *OTHERS])
def test_a_whole_answer_and_its_end(family: Family, program: str) -> None:
    told = family(program).ask("ask", prompt="think Hm. => one two three")
    assert told["text"] == "one two three"
    assert told["finish"] == "stop"


@pytest.mark.parametrize("program", [*ASKING, "litellm_py.py"])
def test_a_streamed_answer(family: Family, program: str) -> None:
    told = family(program).ask("stream", prompt="think Hm. => one two three")
    assert told["text"] == "one two three"
    assert told["finish"] == "stop"


@pytest.mark.parametrize("program", ASKING)
def test_its_usage(family: Family, program: str) -> None:
    usage = family(program).ask("ask", prompt="usage 70 5 0 30")["usage"]
    # Each library has names of its own; the numbers are the same.
    assert {100, 5} <= set(_numbers(usage))


def _numbers(told: Any) -> list[float]:
    if isinstance(told, dict):
        return [number for inside in told.values() for number in _numbers(inside)]
    return [told] if isinstance(told, int | float) else []
