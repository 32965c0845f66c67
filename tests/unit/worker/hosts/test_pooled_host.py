"""A host whose containers were spares: what it says of them, and claims that break off."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from infra.wire.errors import ContainerFailed, LeaseLost
from infra.wire.ids import ConversationKey, Fence, WorkerId
from tests.fakes.memory_host import MemoryHost, MemoryMachine
from worker.hosts.folders.folders import Folders
from worker.hosts.folders.moves import ENTRIES_MAX, NotMovedBack, TooManyEntries
from worker.hosts.host import Container, ContainerSpec, Limits
from worker.hosts.pool.host import PooledHost
from worker.hosts.pool.records import HeldSpare, NotToBeHad, SpareRecord, SpareRecords

SPARE, C, D = (ConversationKey(letter * 24) for letter in "abc")
ME, OTHER = WorkerId("host-1-me"), WorkerId("host-1-other")
LIMITS = Limits(cpus=1, memory_mb=512, pids=64, tmp_mb=16)
NOBODYS = Fence(2**52 + 1)


class Place:
    """A machine with a pooled host."""

    def __init__(self, machine: MemoryMachine, data_dir: Path) -> None:
        self.machine = machine
        self.inner = MemoryHost(machine)
        self.folders = Folders(data_dir)
        self.records = SpareRecords(data_dir)
        self.ended: list[str] = []
        self.host = PooledHost(
            self.inner, self.records, self.folders, on_spare_ended=self.ended.append
        )

    async def spare(self) -> Container:
        await self.host.make(SPARE, ME)
        return await self.start(SPARE, NOBODYS)

    async def start(self, c: ConversationKey, fence: Fence) -> Container:
        folders = await asyncio.to_thread(self.folders.make, c, fence)
        return await self.host.start(ContainerSpec(c, fence, folders, LIMITS, egress=False))

    def write(self, c: ConversationKey, /, **files: str) -> None:
        folder = self.folders.make(c, Fence(1)).workspace
        for name, text in files.items():
            (folder / name).write_text(text)

    def read(self, c: ConversationKey) -> dict[str, str]:
        folder = self.folders.of(c).workspace
        return {path.name: path.read_text() for path in folder.iterdir()}


@asynccontextmanager
async def placed() -> AsyncIterator[Place]:
    with tempfile.TemporaryDirectory(prefix="agc-") as folder:
        async with MemoryMachine() as machine:
            yield Place(machine, Path(folder))


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with placed() as place:
        yield place


async def test_a_claimed_spare_is_the_conversations_container(place: Place) -> None:
    made = await place.spare()
    assert await place.host.list() == []
    claimed = await place.host.claim(made, C, Fence(5), by=ME)
    assert claimed == replace(made, conversation=C, fence=Fence(5))
    assert await place.host.list() == [claimed]
    assert await place.host.spares() == []


async def test_it_is_so_for_a_worker_that_comes_later(place: Place) -> None:
    made = await place.spare()
    claimed = await place.host.claim(made, C, Fence(5), by=ME)
    later = PooledHost(place.inner, place.records, place.folders)
    assert await later.list() == [claimed]
    await later.stop(claimed.id)
    assert place.records.all() == []


async def test_nobody_claims_it_twice_nor_anothers(place: Place) -> None:
    made = await place.spare()
    with pytest.raises(NotToBeHad):
        await place.host.claim(made, C, Fence(5), by=OTHER)
    await place.host.claim(made, C, Fence(5), by=ME)
    with pytest.raises(NotToBeHad):
        await place.host.claim(made, D, Fence(6), by=ME)
    assert not place.folders.of(D).workspace.exists()


async def test_a_spare_that_is_being_removed_is_not_to_be_had(place: Place) -> None:
    made = await place.spare()
    await place.host.remove(SPARE, made.id)
    assert (place.machine.kept, place.records.all()) == ({}, [])
    assert not place.folders.of(SPARE).workspace.exists()
    with pytest.raises(NotToBeHad):
        await place.host.claim(made, C, Fence(5), by=ME)


async def test_a_claimed_one_is_not_removed_as_a_spare(place: Place) -> None:
    made = await place.spare()
    claimed = await place.host.claim(made, C, Fence(5), by=ME)
    await place.host.remove(SPARE, made.id)
    assert await place.host.list() == [claimed]


async def test_a_stale_owner_claims_nothing(place: Place) -> None:
    made = await place.spare()
    place.folders.make(C, Fence(9))
    with pytest.raises(LeaseLost):
        await place.host.claim(made, C, Fence(5), by=ME)
    assert place.folders.of(SPARE).workspace.exists()


async def test_the_end_of_a_claimed_one_is_its_conversations(place: Place) -> None:
    exits = place.host.exits()
    made = await place.spare()
    await place.host.claim(made, C, Fence(5), by=ME)
    await place.machine.kill(SPARE)
    async with asyncio.timeout(5):
        ended = await anext(exits)
    assert (ended.id, ended.conversation) == (made.id, C)
    assert place.ended == []


async def test_the_end_of_an_unclaimed_one_is_the_pools(place: Place) -> None:
    exits = place.host.exits()
    made = await place.spare()
    other = await place.start(D, Fence(1))
    await place.machine.kill(SPARE)
    await place.machine.kill(D)
    async with asyncio.timeout(5):
        assert (await anext(exits)).id == other.id
    assert place.ended == [made.id]


async def test_a_start_removes_what_the_conversation_had_as_a_spare(place: Place) -> None:
    made = await place.spare()
    await place.host.claim(made, C, Fence(5), by=ME)
    with pytest.raises(LeaseLost):
        await place.start(C, Fence(4))
    cold = await place.start(C, Fence(6))
    assert [one.id for one in await place.host.list()] == [cold.id]
    assert (list(place.machine.kept), place.records.all()) == ([cold.id], [])


async def test_a_container_that_was_left_is_removed_before_files_are_moved(place: Place) -> None:
    made = await place.spare()
    left = await place.start(C, Fence(3))
    claimed = await place.host.claim(made, C, Fence(5), by=ME)
    assert left.id not in place.machine.kept
    assert await place.host.list() == [claimed]


async def test_what_a_newer_owner_has_started_is_left_alone(place: Place) -> None:
    made = await place.spare()
    newer = await place.start(C, Fence(9))
    with pytest.raises(LeaseLost):
        await place.host.claim(made, C, Fence(5), by=ME)
    assert newer in await place.host.list()


async def test_files_move_in_and_what_the_agent_closed_stays_closed(place: Place) -> None:
    made = await place.spare()
    place.write(C, a="1", b="2")
    closed = place.folders.of(C).workspace / "closed"
    closed.mkdir()
    (closed / "inside").write_text("3")
    closed.chmod(0o500)
    inode = place.folders.of(SPARE).workspace.stat().st_ino
    await place.host.claim(made, C, Fence(5), by=ME)
    workspace = place.folders.of(C).workspace
    assert workspace.stat().st_ino == inode, "the container has this one mounted"
    assert (workspace / "closed").stat().st_mode & 0o777 == 0o500
    assert (workspace / "closed" / "inside").read_text() == "3"
    assert (workspace / "a").read_text() == "1"


async def test_links_of_the_agent_are_moved_and_not_followed(place: Place) -> None:
    made = await place.spare()
    place.write(C)
    os.symlink("/etc/passwd", place.folders.of(C).workspace / "link")
    await place.host.claim(made, C, Fence(5), by=ME)
    assert os.readlink(place.folders.of(C).workspace / "link") == "/etc/passwd"


async def test_too_many_files_stay_where_they_are(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ENTRIES_MAX > 2
    monkeypatch.setattr("worker.hosts.folders.moves.ENTRIES_MAX", 2)
    made = await place.spare()
    place.write(C, a="1", b="2", c="3")
    with pytest.raises(TooManyEntries):
        await place.host.claim(made, C, Fence(5), by=ME)
    assert place.records.all() == [SpareRecord(SPARE, ME)], "another conversation may have it"
    cold = await place.start(C, Fence(6))
    assert place.read(C) == {"a": "1", "b": "2", "c": "3"}
    assert [one.id for one in await place.host.list()] == [cold.id]


async def test_a_move_that_fails_is_undone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await place.spare()
    place.write(C, a="1", b="2", c="3")
    rename, calls = os.rename, 0

    def failing(*args: object, **more: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("input/output error")
        rename(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("worker.hosts.folders.moves.os.rename", failing)
    with pytest.raises(OSError, match="input/output"):
        await place.host.claim(made, C, Fence(5), by=ME)
    assert place.read(C) == {"a": "1", "b": "2", "c": "3"}
    assert place.records.all()[0].claimed_by is None


async def test_files_that_are_in_two_places_are_brought_together_before_a_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await place.spare()
    place.write(C, a="1", b="2", c="3")
    rename, calls = os.rename, 0

    def failing(*args: object, **more: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("input/output error")
        rename(*args, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr("worker.hosts.folders.moves.os.rename", failing)
        with pytest.raises(NotMovedBack):
            await place.host.claim(made, C, Fence(5), by=ME)
        assert len(place.read(C)) == 2
        with pytest.raises(ContainerFailed):
            await place.start(C, Fence(6))
    await place.start(C, Fence(6))
    assert place.read(C) == {"a": "1", "b": "2", "c": "3"}


def broken_off(place: Place, files_moved: int) -> None:
    """What a worker leaves that is killed in the middle of a claim."""
    with place.records.held(SPARE) as held:
        held.write(replace(held.record, claimed_by=C, fence=Fence(5)))
    for name in sorted(path.name for path in place.folders.of(C).workspace.iterdir())[:files_moved]:
        (place.folders.of(C).workspace / name).rename(place.folders.of(SPARE).workspace / name)


@pytest.mark.parametrize("files_moved", [0, 1, 3])
@pytest.mark.parametrize("finisher", ["tidy", "start", "tidy when the container is gone"])
async def test_a_claim_that_broke_off_is_finished(
    place: Place, files_moved: int, finisher: str
) -> None:
    made = await place.spare()
    place.write(C, a="1", b="2", c="3")
    broken_off(place, files_moved)
    if finisher == "start":
        await place.start(C, Fence(6))
    else:
        if "gone" in finisher:
            await place.inner.stop(made.id)
        await place.host.tidy()
    assert place.read(C) == {"a": "1", "b": "2", "c": "3"}
    assert not place.folders.of(SPARE).workspace.exists()
    left = place.records.all()
    assert left == (
        [SpareRecord(SPARE, ME, C, Fence(5), is_settled=True)] if finisher == "tidy" else []
    )


async def test_a_claim_under_way_is_left_to_its_worker(place: Place) -> None:
    await place.spare()
    place.write(C, a="1")
    broken_off(place, 0)
    with place.records.held(SPARE):
        await place.host.tidy()
        assert place.folders.of(SPARE).workspace.exists()
    await place.host.tidy()
    assert place.read(C) == {"a": "1"}


async def test_half_a_record_is_no_record(place: Place) -> None:
    made = await place.spare()
    (place.folders.of(C).workspace.parents[1] / "p" / SPARE).write_bytes(b'{"spare": "a')
    assert place.records.all() == []
    with pytest.raises(NotToBeHad):
        await place.host.claim(made, C, Fence(5), by=ME)


async def test_a_claim_nobody_waits_for_leaves_no_container(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread goes on when its caller is cancelled."""
    made = await place.spare()
    place.write(C, a="1")
    adopt, is_at_it, may_go_on = place.folders.adopt, threading.Event(), threading.Event()

    def slow(*args: object, **more: object) -> object:
        is_at_it.set()
        may_go_on.wait(10)
        return adopt(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(place.folders, "adopt", slow)
    async with asyncio.TaskGroup() as group:
        claiming = group.create_task(place.host.claim(made, C, Fence(5), by=ME))
        await asyncio.to_thread(is_at_it.wait, 10)
        claiming.cancel()
        await asyncio.sleep(0)
        may_go_on.set()
    assert claiming.cancelled()
    assert (place.machine.kept, place.records.all()) == ({}, [])
    assert place.read(C) == {"a": "1"}


async def test_nothing_is_written_of_a_claim_that_comes_too_late(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker stood still after it had looked, and the conversation was started elsewhere."""
    made = await place.spare()
    claim, write, written = place.host._claim, HeldSpare.write, list[SpareRecord]()

    def late(spare: ConversationKey, c: ConversationKey, fence: Fence, by: WorkerId) -> None:
        place.folders.take(C, Fence(9))
        claim(spare, c, fence, by)

    def noted(held: HeldSpare, record: SpareRecord) -> None:
        written.append(record)
        write(held, record)

    monkeypatch.setattr(place.host, "_claim", late)
    monkeypatch.setattr(HeldSpare, "write", noted)
    with pytest.raises(LeaseLost):
        await place.host.claim(made, C, Fence(5), by=ME)
    assert C not in [record.claimed_by for record in written]


async def test_a_claim_is_on_record_before_anything_is_moved(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await place.spare()
    place.write(C, a="1")
    found: list[SpareRecord | None] = []

    def noted(*args: object, **more: object) -> None:
        found.append(place.records.get(SPARE))

    monkeypatch.setattr("worker.hosts.folders.folders.move_entries", noted)
    monkeypatch.setattr(place.folders, "_adopt_sockets", noted)
    place.folders.of(C).workspace.joinpath("a").unlink()
    await place.host.claim(made, C, Fence(5), by=ME)
    assert found == [SpareRecord(SPARE, ME, C, Fence(5))] * 2


@pytest.mark.parametrize("finisher", ["tidy", "stop", "start of the newer owner"])
async def test_a_stale_claim_moves_nothing_under_a_newer_owners_container(
    place: Place, finisher: str
) -> None:
    made = await place.spare()
    newer = await place.start(C, Fence(6))
    place.folders.of(C).workspace.joinpath("a").write_text("1")
    inodes = [path.stat().st_ino for path in places_of(place, C)]
    with place.records.held(SPARE) as held:
        held.write(replace(held.record, claimed_by=C, fence=Fence(5)))

    assert len(await place.host.list()) == 2
    if finisher == "tidy":
        await place.host.tidy()
    elif finisher == "stop":
        await place.host.stop(made.id)
    else:
        await place.host.end_claims_of(C, Fence(6))

    assert [path.stat().st_ino for path in places_of(place, C)] == inodes
    assert place.read(C) == {"a": "1"}
    assert await place.host.list() == [newer]
    (left,) = await place.host.spares()
    await place.host.remove(SPARE, left.container.id if left.container else None)
    assert (list(place.machine.kept), place.records.all()) == ([newer.id], [])


def places_of(place: Place, c: ConversationKey) -> tuple[Path, Path]:
    folders = place.folders.of(c)
    return folders.sockets, folders.workspace


async def test_an_owner_that_ended_the_claims_is_claimed_for_by_no_older_one(place: Place) -> None:
    made = await place.spare()
    await place.host.end_claims_of(C, Fence(6))
    with pytest.raises(LeaseLost):
        await place.host.claim(made, C, Fence(5), by=ME)
