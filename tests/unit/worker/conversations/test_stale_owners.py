"""Workers that come to themselves too late, and hosts that do not do what they are told.

What is done to a host is done by name: of a container, of a folder. So it is done under the
lease's fence, and folders go only when nothing works in them any more.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from infra.wire.errors import LeaseLost
from infra.wire.ids import ConversationKey, Fence
from infra.wire.states import TurnState
from tests.fakes.manual_clock import FreezingClock
from tests.fakes.memory_host import MemoryHost, StubbornHost, UnheardHost
from tests.fakes.worker_stage import QUICK, TENANT, RunningWorker, Stage, conversation, eventually
from worker.hosts.folders.folders import Folders, StaleFolder
from worker.hosts.folders.locks import LockBusy
from worker.hosts.folders.records import FolderRecords
from worker.ownership import HeldLease

C = conversation("one")


def sockets(stage: Stage) -> Path:
    return stage.folder / "s" / C


def workspace(stage: Stage) -> Path:
    return stage.folder / "w" / C


async def frozen_worker(stage: Stage, clock: FreezingClock) -> tuple[RunningWorker, UnheardHost]:
    """One that will not hear how its next stop went."""
    host = UnheardHost(stage.machine)
    worker = await stage.worker(host=host, clock=clock, renew_every_s=5.0, beat_every_s=5.0)
    return worker, host


async def give_up(stage: Stage, worker: RunningWorker, clock: FreezingClock) -> None:
    """It stands still for so long that it counts as dead."""
    clock.freeze()
    await stage.store.workers.leave(worker.id)
    await stage.lapse_lease(C)


def lease_of(worker: RunningWorker) -> HeldLease:
    return worker.process.placement.conversations[C]._held


@pytest.mark.slow
async def test_a_worker_that_thaws_in_a_stop_leaves_the_sockets_of_the_next_owner(
    stage: Stage,
) -> None:
    clock = FreezingClock()
    first, host = await frozen_worker(stage, clock)
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=0.3))
    await host.asked.wait()
    lease = lease_of(first)
    await give_up(stage, first, clock)
    second = await stage.worker()
    turn = await stage.ask(C, "stream 100 every 10 ms")
    await stage.until_said(turn, 10)

    host.heard.set()
    clock.thaw()
    await asyncio.wait_for(lease.lost.wait(), 10)
    await eventually(lambda: C not in first.process.placement.conversations)

    assert (sockets(stage) / "agent.sock").exists()
    assert C in stage.gateway.sessions
    third = await stage.worker()
    await third.process.reaper.sweep()
    await second.stop()
    assert (await stage.ended(turn)).state is TurnState.DONE, "and so the next one adopts it"


@pytest.mark.slow
async def test_a_worker_that_thaws_in_a_wipe_leaves_the_files_of_the_next_conversation(
    stage: Stage,
) -> None:
    clock = FreezingClock()
    first, host = await frozen_worker(stage, clock)
    await stage.ended(await stage.ask(C, "echo hi"))
    await stage.store.conversations.delete(C, tenant=TENANT, reason="test", is_forced=True)
    await host.asked.wait()
    lease = lease_of(first)
    await give_up(stage, first, clock)
    second = await stage.worker()
    await stage.ended(await stage.ask(C, "echo new"))
    assert not await stage.store.conversations.wipes(second.process.parts.host_id)
    file = workspace(stage) / "thesis.txt"
    file.write_text("the work of the new conversation")

    host.heard.set()
    clock.thaw()
    await asyncio.wait_for(lease.lost.wait(), 10)
    await eventually(lambda: C not in first.process.placement.conversations)

    assert file.exists()
    assert C in stage.gateway.sessions
    assert stage.containers() == [C]


async def test_the_gateways_word_of_a_newer_owner_is_the_loss_of_the_lease(stage: Stage) -> None:
    worker = await stage.worker(renew_every_s=60.0)
    await stage.ended(await stage.ask(C, "echo hi"))
    lease = lease_of(worker)
    held = stage.gateway.sessions[C]
    stage.gateway.sessions[C] = held.model_copy(update={"fence": Fence(held.fence + 1)})

    with pytest.raises(LeaseLost):
        await worker.process.parts.gateway.close_session(C, lease.fence)

    assert lease.lost.is_set()
    assert C in stage.gateway.sessions


@pytest.mark.parametrize("hangs", [False, True])
async def test_nothing_is_removed_while_the_container_is_not_known_to_have_ended(
    stage: Stage, hangs: bool
) -> None:
    host = StubbornHost(stage.machine, hangs=hangs)
    timings = replace(QUICK, stop_max_s=0.2, orphan_grace_s=60.0)
    worker = await stage.worker(host=host, timings=timings)
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=0.1))
    await eventually(lambda: C not in worker.process.placement.conversations)

    assert host.asked.is_set()
    assert stage.containers() == [C]
    assert (sockets(stage) / "agent.sock").exists()
    assert C not in stage.gateway.sessions, "it has no way out any more"

    host.resists = False
    worker = await stage.worker(host=MemoryHost(stage.machine))
    await eventually(lambda: not sockets(stage).exists())
    assert not stage.containers()


@pytest.mark.parametrize("hangs", [False, True])
async def test_files_of_a_deleted_conversation_stay_while_something_may_work_on_them(
    stage: Stage, hangs: bool
) -> None:
    host = StubbornHost(stage.machine, hangs=hangs)
    await stage.worker(host=host, timings=replace(QUICK, stop_max_s=0.2))
    await stage.ended(await stage.ask(C, "echo hi"))
    await stage.store.conversations.delete(C, tenant=TENANT, reason="test", is_forced=True)
    await host.asked.wait()
    await eventually(lambda: C not in stage.gateway.sessions or host.asked.is_set())
    assert workspace(stage).exists()
    assert stage.containers() == [C]

    host.resists = False
    await eventually(lambda: not workspace(stage).exists())
    assert not stage.containers()


async def test_a_workspace_that_took_the_disk_stays_while_its_writer_does(stage: Stage) -> None:
    worker = await stage.worker(host=StubbornHost(stage.machine))
    await stage.ended(await stage.ask(C, "echo hi"))
    guard = worker.process.placement.conversations[C]._workspace
    guard._watch.is_abuse = lambda size_bytes: True  # type: ignore[method-assign]

    await guard.after_flood(has_stopped=False)
    assert workspace(stage).exists()
    await guard.after_flood(has_stopped=True)
    assert not workspace(stage).exists()


# Folders and their fences


def test_folders_of_a_newer_owner_are_neither_made_nor_taken_nor_removed(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.make(C, Fence(2))

    for change in (folders.make, folders.take, folders.drop_sockets, folders.drop_workspace):
        with pytest.raises(LeaseLost):
            change(C, Fence(1))

    assert folders.of(C).sockets.exists()
    assert folders.of(C).workspace.exists()


def test_taking_over_counts_as_a_newer_owner(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.make(C, Fence(1))
    folders.take(C, Fence(2))
    with pytest.raises(LeaseLost):
        folders.drop_workspace(C, Fence(1))
    assert folders.drop_workspace(C, Fence(2))


def test_an_agents_clock_and_sockets_make_nothing_stale(tmp_path: Path) -> None:
    """A folder's own time is the agent's to set, and so is whether somebody listens there."""
    folders = Folders(tmp_path)
    made = folders.make(C, Fence(7))
    for folder in (made.sockets, made.workspace):
        os.utime(folder, (1, 1))
    assert folders.stale_sockets(older_than_s=60) == []
    assert folders.stale_workspaces(older_than_s=60) == []

    for folder in (made.sockets, made.workspace):
        os.utime(folder)
    os.utime(tmp_path / "f" / C, (1, 1))
    assert folders.stale_sockets(older_than_s=60) == [StaleFolder(C, Fence(7))]
    assert folders.stale_workspaces(older_than_s=60) == [StaleFolder(C, Fence(7))]

    folders.touch(C)
    assert folders.stale_workspaces(older_than_s=60) == []


def test_the_time_of_folders_without_a_record_begins_when_they_are_found(tmp_path: Path) -> None:
    workspace = tmp_path / "w" / C
    workspace.mkdir(parents=True)
    os.utime(workspace, (1, 1))
    folders = Folders(tmp_path)

    assert folders.stale_workspaces(older_than_s=60) == []
    assert folders.stale_workspaces(older_than_s=-60) == [StaleFolder(C, Fence(0))]


def test_a_record_goes_with_the_last_folder(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.make(C, Fence(1))
    folders.drop_sockets(C, Fence(1))
    folders.drop_trash()
    assert (tmp_path / "f" / C).exists()
    folders.drop_workspace(C, Fence(1))
    folders.drop_trash()
    assert not (tmp_path / "f" / C).exists()


def test_a_record_that_is_held_is_waited_for_a_bounded_time(tmp_path: Path) -> None:
    """By a process that is stopped between two calls: only this conversation waits, not long."""
    folder = os.open(tmp_path, os.O_RDONLY)
    records = FolderRecords(folder)
    with records.held(C) as record:
        record.take(Fence(1))
        began_s = time.monotonic()
        with pytest.raises(LockBusy), records.held(C, timeout_s=0.05):
            pass
        assert time.monotonic() - began_s < 2
        with records.held(ConversationKey("d" * 24)):
            pass
    with records.held(C):
        pass
    os.close(folder)
