"""Each library bounds an answer and the thinking in its own way, and reads how the answer ended."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Family
from tests.e2e.deployments import Deployment
from tests.e2e.upstream import last_asked

pytestmark = pytest.mark.timeout(240)

PROGRAMS = [
    "openai_py.py",
    "openai_node.cjs",
    "langchain_py.py",
    "langchain_node.cjs",
    "ai_sdk.cjs",
    "litellm_py.py",
]


@pytest.mark.parametrize("verb", ["ask", "stream"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_answer_ends_before_a_stop_sequence(family: Family, program: str, verb: str) -> None:
    told = family(program).ask(verb, prompt="echo one two three", stop=["two"])
    assert told["text"].strip() == "one"
    assert told["finish"] == "stop"


@pytest.mark.parametrize("verb", ["ask", "stream"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_answer_ends_at_its_limit(family: Family, program: str, verb: str) -> None:
    told = family(program).ask(verb, prompt="stream 40 deltas of 8 chars", max_tokens=10)
    assert told["finish"] == "length"
    assert 0 < len(told["text"]) < 100


@pytest.mark.parametrize("program", ["openai_py.py", "langchain_py.py", "litellm_py.py"])
def test_effort_decides_how_much_the_model_thinks(
    deployment: Deployment, family: Family, program: str
) -> None:
    def thinking(**effort: str) -> str:
        family(program).ask("ask", prompt="echo one", **effort)
        asked = last_asked(deployment)
        return f"{asked.get('thinking')} {asked.get('output_config')}"

    assert thinking(reasoning_effort="none") != thinking(reasoning_effort="high")
