"""One host name, one machine."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from infra.runtime.clock import SystemClock
from infra.wire.ids import WorkerId
from tests.fakes.worker_stage import QUICK, Stage
from worker.hosts.folders.machine import HostNameTaken, machine_of
from worker.process import WorkerProcess

AT_ONCE = replace(QUICK, name_patience_s=0.0)


class NotingClock(SystemClock):
    """Says when somebody waits."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waits.set()
        await super().sleep(seconds)


def test_a_data_folder_says_which_machine_it_is(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    with ThreadPoolExecutor(8) as workers:
        [found] = set(workers.map(machine_of, [here] * 8))
    assert machine_of(here) == found
    assert machine_of(there) != found
    assert [path.name for path in here.iterdir()] == ["machine"]


async def test_a_machine_whose_name_another_has_does_not_start(
    stage: Stage, tmp_path: Path
) -> None:
    """Each would be given conversations whose files the other has, and stop its containers."""
    first = await stage.worker(timings=AT_ONCE)
    around = first.process._around
    settings = around.settings.model_copy(update={"data_dir": tmp_path})
    other = WorkerProcess(WorkerId("host-1-other"), replace(around, settings=settings))

    with pytest.raises(HostNameTaken, match="AGCLUSTER_HOST_ID"):
        await other.run(asyncio.Event())

    [living] = await stage.store.workers.alive()
    assert living.worker == first.id
    await stage.worker(timings=AT_ONCE)  # One of the same machine.


async def test_a_machine_that_lost_its_data_folder_waits_for_its_past_to_lapse(
    stage: Stage, tmp_path: Path
) -> None:
    first = await stage.worker()
    await first.kill()
    clock = NotingClock()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        starting = group.create_task(stage.worker(data_dir=tmp_path, clock=clock))
        await clock.waits.wait()
        assert not starting.done()
        await stage.store.workers.leave(first.id)
    assert [w.worker for w in await stage.store.workers.alive()] == [starting.result().id]
