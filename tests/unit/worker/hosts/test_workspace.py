"""The size of workspaces that take long to walk."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from worker.hosts.folders.workspace import (
    QUICK_PLACES,
    TOO_LONG_BYTES,
    WorkspaceGauge,
    WorkspaceWatch,
    size_of,
)

MB = 1024 * 1024


@pytest.mark.slow
def test_a_tree_that_takes_too_long_counts_as_too_large(tmp_path: Path) -> None:
    """It counted as what was seen: many small files hid any number of large ones behind them."""
    for i in range(5000):
        (tmp_path / str(i)).touch()

    assert size_of(tmp_path, timeout_s=0.0005) >= TOO_LONG_BYTES
    assert size_of(tmp_path) < 100 * MB


def test_a_workspace_nobody_can_measure_ends_every_turn_in_it_and_is_kept() -> None:
    watch = WorkspaceWatch(max_bytes=100 * MB)
    too_long = TOO_LONG_BYTES + MB

    assert not watch.judge(too_long, is_running=False)
    assert watch.judge(too_long, is_running=True)
    watch.settle(too_long)
    assert watch.judge(too_long, is_running=True)
    assert not watch.is_abuse(too_long)
    assert watch.is_abuse(TOO_LONG_BYTES + 3000 * MB)
    assert not watch.judge(50 * MB, is_running=True)


def test_a_smaller_limit_ends_a_turn_for_what_it_adds_and_not_for_what_was_there() -> None:
    watch = WorkspaceWatch(max_bytes=100 * MB)
    watch.judge(50 * MB, is_running=False)
    watch.limit(20 * MB)
    assert not watch.judge(50 * MB, is_running=True)
    assert watch.judge(51 * MB, is_running=True)
    watch.limit(100 * MB)
    assert not watch.judge(60 * MB, is_running=True)
    fresh = WorkspaceWatch(max_bytes=100 * MB)
    fresh.judge(1 * MB, is_running=False)
    fresh.limit(20 * MB)
    assert fresh.judge(21 * MB, is_running=True)


async def test_slow_trees_keep_no_neighbour_from_being_measured(tmp_path: Path) -> None:
    may_end = threading.Event()

    def measure(workspace: Path, sockets: Path, timeout_s: float) -> int:
        if workspace.name != "slow":
            return MB
        if timeout_s > 1:
            may_end.wait(10)
        return TOO_LONG_BYTES

    gauge = WorkspaceGauge(measure, quick_s=0.1)
    async with asyncio.TaskGroup() as group:
        slow = [
            group.create_task(gauge.measure(tmp_path / str(i) / "slow", tmp_path))
            for i in range(3 * QUICK_PLACES)
        ]
        async with asyncio.timeout(5):
            assert await gauge.measure(tmp_path / "quick", tmp_path) == MB
            assert not any(one.done() for one in slow)
        may_end.set()
    assert {one.result() for one in slow} == {TOO_LONG_BYTES}
