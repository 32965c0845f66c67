"""What a lane works on: tasks in one group, members that come and go."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.manual_clock import settle
from worker.lanes import Members


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_lane_is_empty_when_its_last_member_has_left() -> None:
    members: Members[str, int] = Members()
    assert await members.wait_empty(timeout_s=0)
    members.put("a", 1)
    members.put("b", 2)
    members.remove("a")
    assert not await members.wait_empty(timeout_s=0)
    assert dict(members.by_key) == {"b": 2}
    members.remove("b")
    assert await members.wait_empty(timeout_s=0)


async def test_a_member_that_takes_anothers_place_is_the_only_one_to_leave() -> None:
    members: Members[str, int | None] = Members()
    members.put("a", None)
    members.put("a", 1)
    assert len(members) == 1
    members.remove("a")
    assert await members.wait_empty(timeout_s=0)


async def test_what_a_lane_does_stops_with_it_and_nothing_comes_any_more() -> None:
    members: Members[str, int] = Members()
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await for_ever()
        finally:
            stopped.set()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        holding = group.create_task(members.hold(for_ever()))
        await members.wait_running()
        assert not members.has_closed()
        members.start(work())
        await settle()
        holding.cancel()
    assert stopped.is_set()
    assert members.has_closed()


async def test_a_task_that_fails_ends_its_lane() -> None:
    members: Members[str, int] = Members()

    async def fail() -> None:
        raise ValueError

    async def fail_soon() -> None:
        await members.wait_running()
        members.start(fail())

    async def run_both() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(members.hold(for_ever()))
            group.create_task(fail_soon())

    with pytest.raises(BaseExceptionGroup) as raised:
        await run_both()
    assert raised.group_contains(ValueError)


async def test_nothing_is_started_in_a_lane_that_does_not_run() -> None:
    work = for_ever()
    with pytest.raises(AssertionError, match="not running"):
        Members[str, int]().start(work)
    work.close()
