"""Logs: one line an event, and the last net for keys."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from infra.runtime.logs import configure_logs, fields

KEY = "sk-ant-api03-of-a-caller"


@pytest.fixture
def settled() -> Iterator[None]:
    """Puts the root logger back as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    # Not through `configure_logs` or `basicConfig`, which would close pytest's own.
    root.handlers.clear()
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("form", ["text", "json"])
def test_what_looks_like_a_key_is_masked_in_every_line(form: str) -> None:
    told = io.StringIO()
    configure_logs("INFO", form, stream=told)
    log = logging.getLogger("of.a.library")
    log.info("asked with %s", KEY, extra=fields(path=f"/v1/{KEY}"))
    log.info("headers: {'authorization': 'Bearer no-pattern-of-ours'}")
    try:
        raise ValueError(f"bad key {KEY}")
    except ValueError:
        log.exception("failed")
    text = told.getvalue()
    assert KEY not in text
    assert "no-pattern-of-ours" not in text
    assert text.count("[key]") >= 4
    assert "ValueError: bad key [key]" in text


@pytest.mark.usefixtures("settled")
def test_a_line_of_json_has_its_fields() -> None:
    told = io.StringIO()
    configure_logs("INFO", "json", stream=told)
    logging.getLogger("x").info("turn claimed", extra=fields(turn="t-1", fence=7, host=None))
    [line] = told.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["turn"], entry["fence"]) == ("turn claimed", "t-1", 7)
    assert "host" not in entry
