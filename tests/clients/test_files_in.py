"""Files of any type, as each library sends them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.clients.conftest import Family
from tests.compatibility import PIXEL
from tests.e2e.deployments import Deployment
from tests.e2e.upstream import last_asked

pytestmark = pytest.mark.timeout(240)

TABLE = b"order,date\n17,2026-12-01\n"
READ = "tool bash cat uploads/table.csv"


def parts(prompt: str, *files: dict[str, Any]) -> list[dict[str, Any]]:
    return [*files, {"type": "text", "text": prompt}]


def table() -> dict[str, Any]:
    data = f"data:text/csv;base64,{base64.b64encode(TABLE).decode()}"
    return {"type": "file", "file": {"filename": "table.csv", "file_data": data}}


@pytest.mark.parametrize(
    "program", ["openai_py.py", "openai_node.cjs", "langchain_py.py", "litellm_py.py"]
)
def test_a_file_is_in_the_workspace(family: Family, program: str) -> None:
    told = family(program).ask("ask", prompt=parts(READ, table()))
    assert "17,2026-12-01" in told["text"]


@pytest.mark.parametrize(
    "program",
    [
        "openai_py.py",
        "openai_node.cjs",
        "langchain_py.py",
        "langchain_node.cjs",
        "litellm_py.py",
        "librechat.cjs",
    ],
)
def test_a_picture_is_seen(deployment: Deployment, family: Family, program: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": PIXEL}}
    told = family(program).ask("stream", prompt=parts("image", picture))
    assert "image/png" in told["text"]
    assert "image/png" in str(last_asked(deployment)["messages"])


@pytest.mark.parametrize("program", ["pydantic_ai_py.py", "ai_sdk.cjs"])
def test_a_picture_in_the_librarys_own_words_is_seen(family: Family, program: str) -> None:
    data = base64.b64decode(PIXEL.partition(",")[2]).hex()
    told = family(program).ask("show", prompt="image", data=data, media_type="image/png")
    assert "image/png" in told["text"]
