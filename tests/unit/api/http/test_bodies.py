"""Large bodies are read one after the other, no matter who asks and who leaves."""

from __future__ import annotations

import asyncio

import pytest

from api.http.bodies import LARGE_BYTES, LargeBodies
from infra.wire.ids import TenantId
from tests.fakes.held_threads import held_threads

LARGE = LARGE_BYTES + 1
FLOOD = TenantId("f" * 20)
OTHERS = (TenantId("o" * 20), TenantId("p" * 20))


async def test_a_reader_that_is_cancelled_leaves_when_its_thread_has_ended() -> None:
    """A thread cannot be interrupted: the next one is not to read beside it."""
    bodies, read = LargeBodies(), list[str]()
    with held_threads() as threads:
        async with asyncio.TaskGroup() as group:
            left = group.create_task(bodies.read(LARGE, lambda: read.append("left"), tenant=FLOOD))
            await threads.asked.wait()
            after = group.create_task(
                bodies.read(LARGE, lambda: read.append("after"), tenant=FLOOD)
            )
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


async def test_tenants_with_large_bodies_are_read_in_turn() -> None:
    """One key's bodies, each of which costs it one request, kept all the others' waiting."""
    bodies, read = LargeBodies(), list[str]()

    async def ask(tenant: TenantId, name: str) -> None:
        await bodies.read(LARGE, lambda: read.append(name), tenant=tenant)

    with held_threads() as threads:
        async with asyncio.TaskGroup() as group:
            for n in range(4):
                group.create_task(ask(FLOOD, f"flood {n}"))
            await threads.asked.wait()
            for n, tenant in enumerate(OTHERS):
                for i in range(2):
                    group.create_task(ask(tenant, f"other {n}.{i}"))
            await asyncio.sleep(0)
            threads.let_go()
    assert read == [
        "flood 0", "flood 1", "other 0.0", "other 1.0",
        "flood 2", "other 0.1", "other 1.1", "flood 3",
    ]  # fmt: skip


async def test_who_leaves_the_row_keeps_nobody_in_it_waiting() -> None:
    bodies, read = LargeBodies(), list[str]()

    async def ask(tenant: TenantId, name: str) -> None:
        await bodies.read(LARGE, lambda: read.append(name), tenant=tenant)

    with held_threads() as threads:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(ask(FLOOD, "first"))
            await threads.asked.wait()
            gone = [group.create_task(ask(tenant, "gone")) for tenant in OTHERS]
            group.create_task(ask(OTHERS[0], "stays"))
            await asyncio.sleep(0)
            for one in gone:
                one.cancel()
            threads.let_go()
        async with asyncio.timeout(10):
            await ask(FLOOD, "later")
    assert read == ["first", "stays", "later"]


async def test_a_place_handed_to_one_who_leaves_in_that_moment_is_handed_on() -> None:
    bodies, read = LargeBodies(), list[str]()

    async def ask(tenant: TenantId, name: str) -> None:
        await bodies.read(LARGE, lambda: read.append(name), tenant=tenant)

    async def ask_first() -> None:
        await ask(FLOOD, "first")
        leaves.cancel()  # It has been handed the place, and does not know yet.

    with held_threads() as threads:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(ask_first())
            await threads.asked.wait()
            leaves = group.create_task(ask(OTHERS[0], "leaves"))
            group.create_task(ask(OTHERS[1], "last"))
            await asyncio.sleep(0)
            threads.let_go()
    assert read == ["first", "last"]
