"""Blocking calls: deadlines, and what becomes of work that nobody waits for any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.wire.ids import ConversationKey, Fence
from worker.hosts.blocking import BlockingCalls
from worker.hosts.folders.folders import Folders


@pytest.fixture
def calls() -> Iterator[BlockingCalls]:
    made = BlockingCalls("test", threads=2)
    yield made
    made.close()


class Gate:
    """Work that waits in its thread until it is let through."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = threading.Event()
        self.undone: list[str] = []
        self._loop = asyncio.get_running_loop()

    def work(self) -> str:
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self.open.wait(20)
        return "made"


async def test_the_result_comes_back(calls: BlockingCalls) -> None:
    assert await calls.run(lambda: 42, timeout_s=5) == 42


async def test_work_past_its_deadline_raises_and_is_undone(calls: BlockingCalls) -> None:
    gate = Gate()
    threading.Timer(1.0, gate.open.set).start()

    with pytest.raises(TimeoutError):
        await calls.run(gate.work, timeout_s=0.01, undo=gate.undone.append)

    assert gate.undone == ["made"]


async def test_a_cancelled_call_ends_after_its_work_is_undone(calls: BlockingCalls) -> None:
    gate = Gate()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(calls.run(gate.work, timeout_s=20, undo=gate.undone.append))
        await gate.entered.wait()
        task.cancel()
        gate.open.set()

    assert task.cancelled()
    assert gate.undone == ["made"]


async def test_a_second_cancel_does_not_stop_the_undoing(calls: BlockingCalls) -> None:
    gate = Gate()
    undone = asyncio.Event()
    loop = asyncio.get_running_loop()

    def undo(_: str) -> None:
        loop.call_soon_threadsafe(undone.set)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(calls.run(gate.work, timeout_s=20, undo=undo))
        await gate.entered.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()

    assert task.cancelled()
    assert not undone.is_set()
    gate.open.set()
    async with asyncio.timeout(20):
        await undone.wait()


async def test_work_that_failed_is_not_undone(calls: BlockingCalls) -> None:
    def fail() -> str:
        raise TimeoutError("the library's own")

    undone: list[str] = []
    with pytest.raises(TimeoutError, match="own"):
        await calls.run(fail, timeout_s=5, undo=undone.append)

    assert undone == []


async def test_a_failing_undo_does_not_replace_the_cancel(
    calls: BlockingCalls, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    def fail(_: str) -> None:
        raise OSError("cannot undo")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(calls.run(gate.work, timeout_s=20, undo=fail))
        await gate.entered.wait()
        task.cancel()
        gate.open.set()

    assert task.cancelled()
    assert "could not be undone" in caplog.text


async def test_removals_that_hang_keep_no_folders_from_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They took the threads that starts need, for minutes each."""
    may_end = threading.Event()

    def hangs(name: str, above: int) -> bool:
        return may_end.wait(20)

    monkeypatch.setattr("worker.hosts.folders.folders.remove_tree", hangs)
    removals = BlockingCalls("removals", threads=2)
    folders = Folders(tmp_path, later=removals.later)
    gone = [ConversationKey(f"{i:024x}") for i in range(50)]
    try:
        async with asyncio.timeout(10):
            for c in gone:
                await asyncio.to_thread(folders.make, c, Fence(1))
            async with asyncio.TaskGroup() as group:
                for c in gone:
                    group.create_task(asyncio.to_thread(folders.drop_workspace, c, Fence(1)))
            made = await asyncio.to_thread(folders.make, ConversationKey("c" * 24), Fence(1))
        assert made.workspace.is_dir()
        assert not any(folders.of(c).workspace.exists() for c in gone)
    finally:
        may_end.set()
        removals.close()
