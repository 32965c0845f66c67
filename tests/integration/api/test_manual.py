"""`/docs`: the API's document to read, without scripts, and the page that is made of it."""

from __future__ import annotations

import re
from pathlib import Path

from api.routes.manual import POLICY, operations
from tests import api_reference
from tests.fakes.running_api import running_api

ROOT = Path(__file__).resolve().parents[3]


async def test_the_page_names_every_operation_and_loads_nothing() -> None:
    async with running_api() as api:
        document = (await api.http.get("/openapi.json")).json()
        page = await api.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"] == POLICY
    assert "default-src 'none'" in POLICY
    for one in operations(document):
        assert f"<code>{one.path}</code>" in page.text
    assert not re.search(r"<script|src=|@import|url\(", page.text)


async def test_an_operation_says_what_it_reads_and_whether_it_needs_a_key() -> None:
    async with running_api() as api:
        document = (await api.http.get("/openapi.json")).json()
    found = {(one.method, one.path): one for one in operations(document)}
    chat = found["POST", "/v1/chat/completions"]
    assert chat.needs_key
    assert {"messages", "model"} <= {p.name for p in chat.parameters if p.is_required}
    assert "X-Conversation-ID" in {p.name for p in chat.parameters if p.place == "header"}
    assert not found["GET", "/health"].needs_key


def test_the_page_of_the_documents_does_not_drift() -> None:
    assert api_reference.renewed() == {api_reference.PAGE: (ROOT / api_reference.PAGE).read_text()}
