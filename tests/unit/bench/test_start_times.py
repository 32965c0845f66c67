"""The bench reads the starts of agents from a worker's log."""

from __future__ import annotations

import io
import logging

import pytest

from infra.runtime.logs import configure_logs
from tests.bench.start_times import medians, read
from tests.unit.worker.turns.test_start_timeline import told_timeline
from worker.turns.start_timeline import StartPhase


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.mark.parametrize("form", ["text", "json"])
def test_starts_are_read_from_either_form_of_the_log(form: str, output: io.StringIO) -> None:
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        configure_logs("info", form, stream=output)
        told_timeline(claimed_ms=15, first_delta_ms=700)
        logging.getLogger("worker").info("no agent ready for this one")
        told_timeline(claimed_ms=25, first_delta_ms=900, is_resumed=True)
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)

    starts = read("".join(f"worker  | {line}\n" for line in output.getvalue().splitlines()))

    assert [start.is_resumed for start in starts] == [False, True]
    assert {start.isolation for start in starts} == {"docker"}
    assert medians(starts[:1]) == {StartPhase.CLAIMED: 15, StartPhase.FIRST_DELTA: 700}
