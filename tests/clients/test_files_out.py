"""What an agent makes: a link at the end of the answer, which a browser follows without a key."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.clients.conftest import Family

pytestmark = pytest.mark.timeout(240)

MAKE = "tool bash mkdir -p outputs && echo made-4711 > outputs/table.csv then echo Here it is."


@pytest.mark.parametrize(
    "program",
    [
        "openai_py.py",
        "openai_node.cjs",
        "langchain_py.py",
        "langchain_node.cjs",
        "ai_sdk.cjs",
        "litellm_py.py",
        "librechat.cjs",
    ],
)
def test_a_link_leads_to_what_the_agent_made(family: Family, program: str) -> None:
    text = family(program).ask("stream", prompt=MAKE)["text"]
    assert text.startswith("Here it is.")
    (link,) = re.findall(r"\]\((http[^)]*table\.csv)\)", text)
    for _ in range(2):  # By each replica.
        assert httpx.get(link, timeout=30).text == "made-4711\n"
