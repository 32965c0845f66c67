"""Workers and the waiting room: who is served, where, and what a lack of memory stops."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from infra.wire.ids import ConversationKey, HostId, TenantId, TurnId
from infra.wire.states import TurnState
from tests.fakes.worker_stage import QUICK, Stage, conversation, eventually
from worker.hosts.capacity import HostMemory, available_memory_mb, memory_reader

pytestmark = pytest.mark.slow

FLOOD, ALONE = TenantId("f" * 20), TenantId("a" * 20)
C, D = conversation("one"), conversation("two")
UNHURRIED = replace(QUICK, sweep_at_least_s=60.0, sweep_at_most_s=60.0, reconcile_every_s=60.0)
"""Nothing but hints places a turn."""


async def claimed_at(stage: Stage, turn: TurnId) -> int:
    at = await stage.redis.hget(stage.keys.turn(turn), "claimed")  # type: ignore[misc]
    assert at is not None
    return int(at)


# Fairness


async def test_a_flood_of_one_tenant_delays_another_by_one_turn(stage: Stage) -> None:
    await stage.worker(slots=1, timings=UNHURRIED)
    busy = await stage.ask(C, "hang")
    await stage.until_said(busy, 1)
    flood = [await stage.ask(conversation(f"f{n}"), f"echo {n}", tenant=FLOOD) for n in range(5)]
    alone = await stage.ask(conversation("alone"), "echo me", tenant=ALONE)
    assert [await stage.store.turns.position(turn) for turn in (*flood, alone)] == [
        0, 2, 3, 4, 5, 1,
    ]  # fmt: skip

    await stage.cancel(busy)

    for turn in (*flood, alone):
        assert (await stage.ended(turn)).state is TurnState.DONE
    when = {turn: await claimed_at(stage, turn) for turn in (*flood, alone)}
    assert sorted(when, key=when.__getitem__)[:2] == [flood[0], alone]


async def test_twenty_turns_at_once_spread_over_four_workers(stage: Stage) -> None:
    slots = (10, 5, 5, 5)
    workers = [
        await stage.worker(slots=count, start_slots=20, timings=UNHURRIED) for count in slots
    ]

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(stage.ask(conversation(f"n{n}"), "hang")) for n in range(20)]
    await eventually(lambda: sum(w.process.placement.used for w in workers) == 20)

    used = [worker.process.placement.used for worker in workers]
    for count, taken in zip(slots, used, strict=True):
        assert abs(taken - 20 * count / sum(slots)) <= 2, used
    for turn in asked:
        await stage.cancel(turn.result())


async def test_a_tenant_with_a_turn_behind_each_running_one_does_not_keep_its_slots(
    stage: Stage,
) -> None:
    """Its conversations took their own next turns past the waiting room: 113 later turns of one
    tenant were answered while another one's single turn waited for good."""
    await stage.worker(slots=2, timings=UNHURRIED)
    stop, later = asyncio.Event(), []

    async def keep_asking(c: ConversationKey) -> None:
        waiting = [await stage.ask(c, "stream 5 every 20 ms", tenant=FLOOD) for _ in range(2)]
        while waiting:
            assert (await stage.ended(waiting.pop(0))).state is TurnState.DONE
            later.append(c)
            if not stop.is_set():
                waiting.append(await stage.ask(c, "stream 5 every 20 ms", tenant=FLOOD))

    floods = [conversation(f"f{n}") for n in range(2)]
    feeding = [stage.background(keep_asking(c)) for c in floods]
    await eventually(lambda: len(later) >= 4)
    before = len(later)

    turn = await stage.ask(conversation("alone"), "echo me", tenant=ALONE)

    assert (await stage.ended(turn, timeout_s=10)).state is TurnState.DONE
    # Two run when it comes; while it waits for the 0.2 s one or two more; then one gives way.
    assert len(later) - before <= 8
    stop.set()
    await asyncio.wait(feeding, timeout=20)
    assert all(task.done() and task.exception() is None for task in feeding)


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
async def test_a_tenant_that_asks_again_after_each_answer_does_not_keep_its_slots(
    stage: Stage, pause_s: float
) -> None:
    """None of its turns waits when another tenant's comes, and all of them are younger."""
    await stage.worker(slots=2, timings=UNHURRIED)
    stop, asked = asyncio.Event(), list[TurnId]()

    async def keep_asking(c: ConversationKey) -> None:
        while not stop.is_set():
            asked.append(await stage.ask(c, "stream 5 every 20 ms", tenant=FLOOD))
            assert (await stage.ended(asked[-1])).state is TurnState.DONE
            await asyncio.sleep(pause_s)

    feeding = [stage.background(keep_asking(conversation(f"f{n}"))) for n in range(2)]
    await eventually(lambda: len(asked) >= 6)
    earlier = set(asked)

    turn = await stage.ask(conversation("alone"), "echo me", tenant=ALONE)

    assert (await stage.ended(turn, timeout_s=10)).state is TurnState.DONE
    stop.set()
    await asyncio.wait(feeding, timeout=20)
    assert all(task.done() and task.exception() is None for task in feeding)
    served = await claimed_at(stage, turn)
    later = [one for one in asked if one not in earlier and await claimed_at(stage, one) < served]
    # Two run when it comes; while it waits for the 0.2 s one or two more; then one gives way.
    assert len(later) <= 8


async def test_a_tenant_keeps_its_warm_conversations_while_there_is_room(stage: Stage) -> None:
    await stage.worker(slots=2, start_slots=1, timings=UNHURRIED)
    turns = [await stage.ask(C, "echo hi", tenant=FLOOD) for _ in range(6)]
    turns += [await stage.ask(D, "echo hi", tenant=ALONE) for _ in range(6)]

    for turn in turns:
        assert (await stage.ended(turn)).state is TurnState.DONE
    assert [len(stage.agents[c]) for c in (C, D)] == [1, 1]


# Nothing is lost


async def test_a_worker_that_dies_between_take_and_acquire_loses_nothing(stage: Stage) -> None:
    first = await stage.worker(timings=UNHURRIED)
    turn = await stage.killed_after_take(first, C)
    assert await stage.state(turn) is TurnState.QUEUED

    await stage.worker()

    assert (await stage.ended(turn)).state is TurnState.DONE


async def test_a_turn_that_found_no_room_after_all_is_run_by_another_worker(stage: Stage) -> None:
    """A hint for one worker that is full: not followed, and not lost."""
    full = await stage.worker(slots=1, timings=UNHURRIED)
    busy = await stage.ask(C, "hang")
    await stage.until_said(busy, 1)
    turn = await stage.ask(D, "echo elsewhere", is_hinted=False)
    other = await stage.worker(timings=UNHURRIED)

    await full.process.placement.claim(turn)

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert D in other.process.placement.conversations
    await stage.cancel(busy)


# Memory


async def test_a_host_without_memory_takes_nothing_and_another_does(stage: Stage) -> None:
    full = await stage.worker(host_id=HostId("host-a"), memory=lambda: 100)
    free = await stage.worker(host_id=HostId("host-b"), memory=lambda: 64_000)

    for n in range(4):
        turn = await stage.ask(conversation(f"n{n}"), "echo hi")
        assert (await stage.ended(turn)).state is TurnState.DONE

    assert not full.process.placement.has_room()
    assert full.process.placement.used == 0
    assert free.process.placement.used == 4


async def test_a_turn_waits_until_there_is_memory_and_the_log_says_so_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    available = [100]
    worker = await stage.worker(memory=lambda: available[0])
    turn = await stage.ask(C, "echo at last")
    for _ in range(3):
        await worker.process._beat()
    assert await stage.state(turn) is TurnState.QUEUED
    assert [r.message for r in caplog.records].count("memory is short, nothing new is started") == 1

    available[0] = 64_000

    assert (await stage.ended(turn)).state is TurnState.DONE


async def test_without_memory_an_idle_conversation_still_gives_its_place(stage: Stage) -> None:
    available = [64_000]
    worker = await stage.worker(memory=lambda: available[0], hibernate_below_mb=1)
    await stage.ended(await stage.ask(C, "echo idle now"))
    available[0] = 100
    await eventually(lambda: worker.process.placement._memory.is_short)

    turn = await stage.ask(D, "echo in its place")

    assert (await stage.ended(turn)).state is TurnState.DONE
    await eventually(lambda: stage.containers() == [D])


def test_what_starts_counts_as_idle_agents_until_a_look_has_seen_it() -> None:
    """A burst of starts was let in on memory that those before it were going to take."""
    memory = HostMemory(lambda: 1450, needed_mb=1000)
    for n in range(2):
        memory.expect(conversation(f"c{n}"))
        assert not memory.is_short
    memory.expect(conversation("c2"))
    memory.look()
    assert (memory.is_short, memory.left_mb) == (True, 850)

    memory.settle(conversation("c2"))
    assert (memory.is_short, memory.left_mb) == (True, 850)

    memory.look()
    assert (memory.is_short, memory.left_mb) == (False, 1050)


def test_a_machine_that_does_not_say_is_not_short() -> None:
    memory = HostMemory(lambda: None, needed_mb=1000)
    memory.expect(C)
    assert not memory.look()
    assert not memory.is_short


def test_available_memory_is_read_from_the_kernel(tmp_path: Path) -> None:
    assert (available_memory_mb(Path("/proc/meminfo")) or 0) > 0

    file = tmp_path / "meminfo"
    read_mb = memory_reader(file)
    assert read_mb() is None
    file.write_text("MemTotal:       16000000 kB\nMemAvailable:    2048000 kB\n")
    assert read_mb() == 2000
    file.write_text("MemTotal:       16000000 kB\n")
    assert read_mb() is None
