"""Logs: one line an event, and the last net for keys."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from infra.runtime.logs import LINE_MAX_CHARS, RatedLog, bind, bound, configure_logs, fields

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


FOREIGN = "it is well\n12:00:00 INFO    api: forged turn=t-2 \x1b[2J \x9b \u202e \u2028 \ud800 end"


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("form", ["text", "json"])
def test_nobodys_words_forge_a_line_or_move_a_terminal(form: str) -> None:
    told = io.StringIO()
    configure_logs("INFO", form, stream=told)
    log = logging.getLogger("x")
    log.info("agent refused: %s", FOREIGN, extra=fields(said=FOREIGN))
    try:
        raise ValueError(FOREIGN)
    except ValueError:
        log.exception("failed")
    text = told.getvalue()
    assert not set(text) & set("\x1b\x9b\u202e\u2028\ud800\r")
    lines = text.splitlines()
    assert not any(line.startswith("12:00:00 INFO    api") for line in lines)
    if form == "text":
        assert sum(not line.startswith("| ") for line in lines) == 2
        assert 'said="it is well\\n12:00:00' in lines[0]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_ends(form: str) -> None:
    """An unknown message of an agent was logged whole: 149 MB in ten seconds."""
    told = io.StringIO()
    configure_logs("INFO", form, stream=told)
    long = "x" * 10_000_000
    logging.getLogger("x").info("skipped: %s", long, extra=fields(said=long))
    assert len(told.getvalue()) < 3 * LINE_MAX_CHARS


def test_what_one_can_have_written_is_rated_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    caplog.set_level(logging.INFO)
    log = RatedLog(
        logging.getLogger("x"),
        extra=fields(conversation="c-1"),
        lines_max=3,
        window_s=60,
        monotonic=lambda: now_s,
    )
    for n in range(10):
        log.warning("skipped: %s", n)
    assert [record.getMessage() for record in caplog.records] == [f"skipped: {n}" for n in range(3)]

    now_s = 61.0
    log.info("link lost")
    assert vars(caplog.records[-1])["agc_fields"] == {"conversation": "c-1", "untold": 7}
    log.info("again")
    assert "untold" not in vars(caplog.records[-1])["agc_fields"]


@pytest.mark.usefixtures("settled")
def test_lines_have_what_is_bound_where_they_are_written() -> None:
    said = io.StringIO()
    configure_logs("INFO", "text", stream=said)
    log = logging.getLogger("bound")
    with bound(turn="turn_1", conversation="c"):
        log.info("one")
        log.info("two", extra=fields(turn="turn_2"))
    log.info("three")
    told = [line.partition(": ")[2] for line in said.getvalue().splitlines()]
    assert told == ["one turn=turn_1 conversation=c", "two turn=turn_2 conversation=c", "three"]


@pytest.mark.usefixtures("settled")
def test_times_have_milliseconds() -> None:
    forms = {"text": r"^\d\d:\d\d:\d\d\.\d{3} ", "json": r"T\d\d:\d\d:\d\d\.\d{3}[+-]"}
    for form, pattern in forms.items():
        said = io.StringIO()
        configure_logs("INFO", form, stream=said)
        logging.getLogger("times").info("now")
        assert re.search(pattern, said.getvalue())


@pytest.mark.usefixtures("settled")
async def test_what_a_task_binds_is_its_own() -> None:
    said = io.StringIO()
    configure_logs("INFO", "text", stream=said)

    async def serve(turn: str) -> None:
        bind(turn=turn)
        await asyncio.sleep(0)
        logging.getLogger("task").info("served")

    async with asyncio.TaskGroup() as group:
        for turn in ("turn_1", "turn_2"):
            group.create_task(serve(turn))
    assert sorted(line.split()[-1] for line in said.getvalue().splitlines()) == [
        "turn=turn_1",
        "turn=turn_2",
    ]
