"""Large bodies are read one after the other, whoever asks and whoever leaves."""

from __future__ import annotations

import asyncio

import pytest

from api.http.bodies import LARGE_BYTES, LargeBodies
from tests.fakes.held_threads import held_threads

LARGE = LARGE_BYTES + 1


async def test_a_reader_that_is_cancelled_leaves_when_its_thread_has_ended() -> None:
    """A thread cannot be interrupted: the next one is not to read beside it."""
    bodies, read = LargeBodies(), list[str]()
    with held_threads() as threads:
        async with asyncio.TaskGroup() as group:
            left = group.create_task(bodies.read(LARGE, lambda: read.append("left")))
            await threads.asked.wait()
            after = group.create_task(bodies.read(LARGE, lambda: read.append("after")))
            threads.asked.clear()
            for _ in range(2):  # A second cancel hurries it no more than the first.
                left.cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert not left.done()
            assert not threads.asked.is_set()
            threads.let_go()
            with pytest.raises(asyncio.CancelledError):
                await left
            await after
    assert read == ["left", "after"]
