"""What LibreChat's own library makes of an answer, and of a title."""

from __future__ import annotations

import pytest

from infra.wire.history.answers import LINE_OPENING
from tests.clients.conftest import Family

pytestmark = pytest.mark.timeout(240)

LIBRECHAT = "librechat.cjs"
PROMPT = "say One. + tool bash echo first then think Hm. => Two."


def test_tools_stand_where_they_ran(family: Family) -> None:
    headers = {"X-AgCluster-Tool-Display": "lines"}
    parts = family(LIBRECHAT).ask("page", prompt=PROMPT, headers=headers)["parts"]
    thoughts = [words for kind, words in parts if kind == "think"]
    text = "".join(words for kind, words in parts if kind == "text")
    assert [words.strip() for words in thoughts] == ["Hm."]
    before, *lines, after = [line for line in text.split("\n") if line.strip()]
    assert (before.strip(), after.strip()) == ("One.", "Two.")
    assert all(line.startswith(LINE_OPENING) for line in lines)
    assert "echo first" in lines[0]


def test_by_itself_it_gathers_all_reasoning_above_the_text(family: Family) -> None:
    """Why it gets lines. Fails when a newer library keeps the order."""
    parts = family(LIBRECHAT).ask("page", prompt=PROMPT)["parts"]
    assert [kind for kind, _ in parts].count("think") == 1
    (thought,) = [words for kind, words in parts if kind == "think"]
    assert "echo first" in thought
    assert "Hm." in thought


@pytest.mark.parametrize("method", ["structured", "functions"])
def test_a_title_in_a_form(family: Family, method: str) -> None:
    """`titleMethod` in librechat.yaml."""
    told = family(LIBRECHAT).ask("title", method=method)["told"]
    assert isinstance(told["title"], str)
