"""Workspaces: how large they may grow, and when they go."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from infra.wire.errors import ErrorCode
from infra.wire.ids import ConversationKey, Fence, HostId
from infra.wire.states import ConversationState, TurnState
from tests.fakes.manual_clock import ManualClock
from tests.fakes.worker_stage import QUICK, TENANT, Stage, conversation, eventually
from worker.hosts.folders.folders import Folders
from worker.hosts.folders.workspace import WorkspacePace, WorkspaceWatch, size_of

pytestmark = pytest.mark.slow

C = conversation("one")
FENCE = Fence(1)
MB = 1024 * 1024
REASON = "test"


def test_a_size_is_what_the_disk_holds_links_not_followed(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"x" * MB)
    (tmp_path / "link").symlink_to("/")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(100 * MB)

    assert MB <= size_of(tmp_path) < 2 * MB


def _dig(folder: Path, levels: int) -> None:
    """Deeper than any path can name, and its owner's, as an agent's own would be."""
    there = os.open(folder, os.O_RDONLY)
    owner = os.fstat(there)
    for _ in range(levels):
        os.mkdir("d" * 50, dir_fd=there)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=there)
        os.fchown(below, owner.st_uid, owner.st_gid)
        os.close(there)
        there = below
    with os.fdopen(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=there), "wb") as file:
        file.write(b"x" * MB)
    os.close(there)


def test_what_is_hidden_too_deep_for_a_path_counts_as_too_much_and_can_be_removed(
    tmp_path: Path,
) -> None:
    folders = Folders(tmp_path)
    workspace = folders.make(C, FENCE).workspace
    _dig(workspace, 1500)
    try:
        assert size_of(workspace) > 2**49
    finally:
        assert folders.drop_workspace(C, FENCE)
        folders.drop_trash()
    assert list((tmp_path / "w").glob("[!.]*")) == []
    # pytest could not remove what is left: its own clean-up recurses.
    assert list((tmp_path / "w" / ".trash").iterdir()) == []


def test_a_folder_that_was_closed_to_us_is_measured_and_stays_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "file").write_bytes(b"x" * MB)
    closed.chmod(0o000)
    try:
        assert size_of(tmp_path) >= MB
        assert closed.stat().st_mode & 0o777 == 0
    finally:
        closed.chmod(0o700)


def test_empty_files_are_counted_too(tmp_path: Path) -> None:
    for i in range(2000):
        (tmp_path / str(i)).touch()
    assert size_of(tmp_path) > 2 * 1000 * 1000


def test_a_removed_tree_takes_nothing_along_that_it_links_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o755)
    (kept / "file").write_text("mine")
    folders = Folders(tmp_path / "data")
    workspace = folders.make(C, FENCE).workspace
    for place in (workspace / "link", workspace / "a" / "b" / "link"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(kept)
    locked = workspace / "a" / "locked"
    locked.mkdir()
    (locked / "file").write_text("")
    locked.chmod(0o000)

    assert folders.drop_workspace(C, FENCE)

    assert list((tmp_path / "data" / "w").glob("[!.]*")) == []
    assert (kept / "file").read_text() == "mine"
    assert kept.stat().st_mode & 0o777 == 0o755


def test_a_workspace_that_is_not_there_takes_nothing(tmp_path: Path) -> None:
    assert size_of(tmp_path / "none") == 0


def test_a_turn_that_passes_the_limit_has_to_end() -> None:
    watch = WorkspaceWatch(max_bytes=100)
    assert not watch.judge(50, is_running=True)
    assert watch.judge(101, is_running=True)


def test_who_begins_beyond_the_limit_may_clean_up_but_not_write_more() -> None:
    watch = WorkspaceWatch(max_bytes=100)
    assert not watch.judge(150, is_running=True)
    assert not watch.judge(140, is_running=True)
    assert watch.judge(145, is_running=True)
    assert not watch.judge(90, is_running=True)
    assert watch.judge(110, is_running=True)


def test_growth_that_is_found_after_the_turn_counts_for_the_next_one() -> None:
    watch = WorkspaceWatch(max_bytes=100)
    watch.judge(50, is_running=True)
    assert not watch.judge(120, is_running=False)
    assert not watch.judge(120, is_running=True)
    assert watch.judge(121, is_running=True)


def test_what_a_killed_writer_still_added_is_not_the_next_turns_doing() -> None:
    watch = WorkspaceWatch(max_bytes=100)
    watch.judge(50, is_running=True)
    assert watch.judge(120, is_running=True)
    watch.settle(160)
    assert not watch.judge(160, is_running=True)
    assert watch.judge(161, is_running=True)


@dataclass
class Disk:
    """Loses what it is told to with every look."""

    free: int
    loses: int = 0

    def __call__(self, folder: Path) -> int:
        self.free -= self.loses
        return self.free


async def _looked_after_s(disk: Disk, *, is_used: bool) -> float:
    clock = ManualClock()
    pace = WorkspacePace(clock, every_s=10, glance_s=0.25, free=disk)
    began_s = clock.monotonic()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            pace.wait(Path("/"), room_bytes=100 * MB, is_used=lambda: is_used)
        )
        while not waiting.done():
            await clock.advance(0.25)
    return clock.monotonic() - began_s


async def test_a_disk_that_fills_up_is_looked_at_soon() -> None:
    assert await _looked_after_s(Disk(10**12), is_used=True) >= 10
    assert await _looked_after_s(Disk(10**12, loses=60 * MB), is_used=True) <= 0.5
    assert await _looked_after_s(Disk(10**12, loses=10 * MB), is_used=True) <= 2


async def test_what_a_disk_loses_while_no_turn_runs_hurries_nobody() -> None:
    assert await _looked_after_s(Disk(10**12, loses=60 * MB), is_used=False) >= 10


def test_what_no_honest_writer_reaches_is_abuse() -> None:
    watch = WorkspaceWatch(max_bytes=1024 * MB)
    assert not watch.is_abuse(3 * 1024 * MB)
    assert watch.is_abuse(5 * 1024 * MB)


async def test_a_workspace_that_took_the_disk_is_given_up(redis: Redis) -> None:
    """A gigabyte reserved a hundred times takes milliseconds; deleting nothing would leave it."""
    async with Stage(redis, workspace_max_mb=1) as stage:
        await stage.worker(timings=replace(QUICK, workspace_every_s=0.05))
        turn = await stage.ask(C, "hang")
        await stage.until_said(turn, 1)
        workspace = stage.folder / "w" / C
        await stage.clock.sleep(0.2)
        with (workspace / "reserved").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 2100 * MB)

        end = await stage.ended(turn)

        assert end.error is not None
        assert end.error.code is ErrorCode.WORKSPACE_FULL
        await eventually(lambda: not (workspace / "reserved").exists())
        assert (await stage.ended(await stage.ask(C, "echo still here"))).state is TurnState.DONE


async def test_a_turn_that_fills_its_workspace_is_ended_with_a_clear_word(redis: Redis) -> None:
    async with Stage(redis, workspace_max_mb=1) as stage:
        await stage.worker(timings=replace(QUICK, workspace_every_s=0.05))
        turn = await stage.ask(C, "hang")
        await stage.until_said(turn, 1)
        workspace = stage.folder / "w" / C
        asleep = stage.clock
        await asleep.sleep(0.2)
        (workspace / "large").write_bytes(b"x" * 2 * MB)

        end = await stage.ended(turn)

        assert end.error is not None
        assert end.error.code is ErrorCode.WORKSPACE_FULL
        assert (workspace / "large").exists()
        await eventually(lambda: not stage.containers())
        assert (await stage.ended(await stage.ask(C, "echo still here"))).state is TurnState.DONE


async def test_what_lies_beside_the_sockets_counts_too(redis: Redis) -> None:
    async with Stage(redis, workspace_max_mb=1) as stage:
        await stage.worker(timings=replace(QUICK, workspace_every_s=0.05))
        turn = await stage.ask(C, "hang")
        await stage.until_said(turn, 1)
        await stage.clock.sleep(0.2)
        (stage.folder / "s" / C / "large").write_bytes(b"x" * 2 * MB)

        end = await stage.ended(turn)

        assert end.error is not None
        assert end.error.code is ErrorCode.WORKSPACE_FULL
        await eventually(lambda: not (stage.folder / "s" / C / "large").exists())


async def test_what_is_unlinked_and_held_open_counts_too(redis: Redis) -> None:
    """859 MB were written against a limit of 256: they were in no folder."""
    async with Stage(redis, workspace_max_mb=1) as stage:
        await stage.worker(timings=replace(QUICK, workspace_every_s=0.05))
        turn = await stage.ask(C, "hang")
        await stage.until_said(turn, 1)
        await stage.clock.sleep(0.2)
        stage.machine.unlinked_bytes = 2 * MB

        end = await stage.ended(turn)

        assert end.error is not None
        assert end.error.code is ErrorCode.WORKSPACE_FULL
        await eventually(lambda: not stage.containers())


async def test_a_deleted_conversation_leaves_nothing_on_its_host(stage: Stage) -> None:
    await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi"))
    (stage.folder / "w" / C / "secret").write_text("mine")

    await stage.store.conversations.delete(C, tenant=TENANT, reason=REASON)

    await eventually(lambda: not stage.containers())
    await eventually(lambda: not (stage.folder / "w" / C).exists())
    assert not (stage.folder / "s" / C).exists()
    await _until_wiped(stage)
    assert C not in stage.gateway.sessions
    # The wipe's own lease leaves with the last of it.
    await _until_gone(stage)


async def test_one_that_was_cold_too_and_without_a_word_to_its_worker(stage: Stage) -> None:
    first = await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi"))
    await stage.store.conversations.stop(C, tenant=TENANT, reason=REASON)
    await eventually(lambda: not first.process.placement.used)
    await first.stop()
    await stage.store.conversations.delete(C, tenant=TENANT, reason=REASON)
    assert (stage.folder / "w" / C).exists()

    await stage.worker()

    await _until_wiped(stage)
    assert not (stage.folder / "w" / C).exists()


async def test_a_new_conversation_of_a_deleted_name_finds_no_old_files(stage: Stage) -> None:
    await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi"))
    (stage.folder / "w" / C / "secret").write_text("mine")

    await stage.store.conversations.delete(C, tenant=TENANT, reason=REASON)
    turn = await stage.ask(C, "history")

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "history"
    assert not (stage.folder / "w" / C / "secret").exists()
    assert (stage.folder / "w" / C).exists()
    assert len(stage.containers()) == 1


async def test_no_turn_is_served_while_a_deleted_ones_files_are_in_place(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi"))
    (stage.folder / "w" / C / "secret").write_text("mine")
    folders = worker.process.parts.folders
    drop, tries = folders.drop_workspace, 0

    def resist_twice(c: ConversationKey, fence: Fence) -> bool:
        nonlocal tries
        tries += 1
        return tries > 2 and drop(c, fence)

    folders.drop_workspace = resist_twice  # type: ignore[method-assign]
    await stage.store.conversations.delete(C, tenant=TENANT, reason=REASON)
    turn = await stage.ask(C, "echo new")

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert tries == 3
    assert (stage.folder / "w" / C).exists()
    assert not (stage.folder / "w" / C / "secret").exists()


async def test_deleting_by_force_ends_the_running_turn(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)

    await stage.store.conversations.delete(C, tenant=TENANT, reason=REASON, is_forced=True)

    assert (await stage.ended(turn)).state is TurnState.CANCELLED
    await eventually(lambda: not stage.containers())
    await _until_wiped(stage)


async def _until_wiped(stage: Stage) -> None:
    await _until_none(lambda: stage.store.conversations.wipes(HostId("host-1")))


async def _until_gone(stage: Stage) -> None:
    await _until_none(lambda: stage.store.conversations.get(C))


async def _until_none(found: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(10):
        while await found():  # noqa: ASYNC110 - nobody signals that there is nothing any more
            await asyncio.sleep(0.02)


async def test_stopping_a_conversation_interrupts_it_and_frees_its_container(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)

    await stage.store.conversations.stop(C, tenant=TENANT, reason=REASON)

    assert (await stage.ended(turn)).state is TurnState.CANCELLED
    await eventually(lambda: not stage.containers())
    assert (stage.folder / "w" / C).exists()
    record = await stage.store.conversations.get(C)
    assert record is not None
    again = await stage.ask(C, "history", history=("hang",))
    assert (await stage.ended(again)).state is TurnState.DONE
    assert await stage.log_text(again) == "hang | history"


async def test_a_stop_nobody_heard_is_found_by_the_sweep(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=600))
    worker.process.placement.stop = lambda c, **_: None  # type: ignore[method-assign]

    await stage.store.conversations.stop(C, tenant=TENANT, reason=REASON)

    await eventually(lambda: not stage.containers())


async def test_files_of_a_forgotten_conversation_go_after_the_retention(stage: Stage) -> None:
    folders = Folders(stage.folder)
    forgotten = folders.make(conversation("old"), FENCE).workspace
    kept = folders.make(C, FENCE).workspace
    _age(stage.folder / "f" / conversation("old"), days=8)

    await stage.worker()

    await eventually(lambda: not forgotten.exists())
    assert kept.exists(), "Redis may have been emptied just now"


async def test_files_of_a_known_conversation_stay_however_old(stage: Stage) -> None:
    await stage.redis.hset(stage.keys.conversation(C), mapping={"state": "cold", "host": "host-1"})  # type: ignore[misc]
    folders = Folders(stage.folder)
    workspace = folders.make(C, FENCE).workspace
    other = folders.make(conversation("other"), FENCE).workspace
    for c in (C, conversation("other")):
        _age(stage.folder / "f" / c, days=80)

    worker = await stage.worker()

    await eventually(lambda: not other.exists())
    await worker.process.reaper.reconcile()
    assert workspace.exists()


@pytest.mark.parametrize("every_s", [0.0, 600.0])
async def test_a_turn_keeps_its_workspace_young(stage: Stage, every_s: float) -> None:
    await stage.worker(timings=replace(QUICK, touch_every_s=every_s))
    await stage.ended(await stage.ask(C, "echo hi"))
    used = stage.folder / "f" / C
    _age(used, days=80)

    await stage.ended(await stage.ask(C, "echo again"))

    if every_s:  # It was marked a moment ago.
        assert time.time() - used.stat().st_mtime > 60
    else:
        await eventually(lambda: time.time() - used.stat().st_mtime < 60)
    record = await stage.store.conversations.get(C)
    assert record is not None
    assert record.state is ConversationState.WARM


def test_a_workspace_goes_with_all_that_is_in_it_locked_or_not(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    workspace = folders.of(C).workspace
    locked = workspace / "a" / "locked"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    (workspace / "link").symlink_to("/etc")
    locked.chmod(0)

    assert folders.drop_workspace(C, FENCE)
    assert not workspace.exists()
    assert Path("/etc").is_dir()
    assert folders.drop_workspace(C, FENCE), "what is gone is gone"


def test_trash_is_no_workspace_and_goes_when_tidied(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    trash = tmp_path / "w" / ".trash" / f"{C}-1"
    trash.mkdir(parents=True)
    _age(trash, days=80)

    assert folders.stale_workspaces(older_than_s=60) == []
    folders.drop_trash()
    assert not trash.exists()


def _age(folder: Path, *, days: int) -> None:
    then = time.time() - days * 86400
    os.utime(folder, (then, then))
