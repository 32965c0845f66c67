"""When memory is low idle conversations go, the longest idle first, and come back with their next
turns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infra.wire.ids import ConversationKey, HostId, TenantId
from infra.wire.states import ConversationState, Hibernation, TurnState
from tests.fakes.memory_host import HOST, MemoryHost, MemoryMachine
from tests.fakes.worker_stage import Stage, conversation, eventually
from worker.hosts.capacity import IDLE_AGENT_MB
from worker.hosts.host import ContainerId
from worker.placement.hibernation import Idle, to_hibernate
from worker.placement.idle_stops import STOPS_AT_ONCE

pytestmark = pytest.mark.slow

LOW_MB, HIGH_MB, PLENTY_MB = 2000, 2400, 64_000


def idle(name: str, since_ms: int, *, is_resumable: bool = True) -> Idle:
    return Idle(conversation(name), since_ms, is_resumable)


A, B, C, D = (idle(name, since) for name, since in zip("abcd", (10, 20, 30, 40), strict=True))
FULL = idle("full", 1, is_resumable=False)


@pytest.mark.parametrize(
    ("mine", "others", "agents", "under_way", "chosen"),
    [
        ((), (), 3, 0, ()),
        ((A, B), (), 0, 0, ()),
        # The longest idle first, whatever their order; no more than needed.
        ((C, A, B), (), 2, 0, (A, B)),
        ((A, B), (), 9, 0, (A, B)),
        # What is going already counts.
        ((A, B, C), (), 3, 2, (A,)),
        ((A, B), (), 2, 2, ()),
        # The other workers of the host do their part.
        ((B, D), (10, 30), 2, 0, (B,)),
        ((B, D), (10, 30), 4, 0, (B, D)),
        ((C, D), (10, 20), 2, 0, ()),
        # One that loses what it knows goes last, on the whole host.
        ((FULL, B), (), 1, 0, (B,)),
        ((FULL, B), (), 2, 0, (B, FULL)),
        ((FULL,), (10, 20), 2, 0, ()),
        ((FULL,), (10, 20), 3, 0, (FULL,)),
    ],
)
def test_the_policy(
    mine: tuple[Idle, ...],
    others: tuple[int, ...],
    agents: int,
    under_way: int,
    chosen: tuple[Idle, ...],
) -> None:
    wanted_mb = agents * IDLE_AGENT_MB
    found = to_hibernate(mine, others, wanted_mb=wanted_mb, under_way=under_way)
    assert tuple(found) == chosen


def test_a_part_of_an_agent_is_an_agent_and_few_go_at_a_time() -> None:
    many = [idle(f"c{n}", n) for n in range(3 * STOPS_AT_ONCE)]
    assert to_hibernate(many, (), wanted_mb=1, under_way=0) == many[:1]
    assert to_hibernate(many, (), wanted_mb=IDLE_AGENT_MB + 1, under_way=0) == many[:2]
    assert to_hibernate(many, (), wanted_mb=10**6, under_way=0) == many[:STOPS_AT_ONCE]
    assert to_hibernate(many, (), wanted_mb=10**6, under_way=STOPS_AT_ONCE + 3) == []


def test_workers_with_the_same_view_choose_together_what_one_would() -> None:
    everybody = [idle(f"c{n}", n) for n in range(7)]
    first, second = everybody[::2], everybody[1::2]
    for agents in range(9):
        wanted_mb = agents * IDLE_AGENT_MB
        alone = to_hibernate(everybody, (), wanted_mb=wanted_mb, under_way=0)
        parts = [
            to_hibernate(mine, [one.since_ms for one in other], wanted_mb=wanted_mb, under_way=0)
            for mine, other in ((first, second), (second, first))
        ]
        assert sorted((*parts[0], *parts[1]), key=lambda one: one.since_ms) == alone


class Machine:
    """A machine whose available memory follows its containers."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.total_mb = PLENTY_MB

    def available_mb(self) -> int:
        return self.total_mb - IDLE_AGENT_MB * len(self.stage.containers())


SETTINGS: dict[str, Any] = {"hibernate_below_mb": LOW_MB, "hibernate_until_mb": HIGH_MB}


async def warm(stage: Stage, name: str, tenant: str = "t") -> ConversationKey:
    c = conversation(name)
    turn = await stage.ask(c, "echo hi", tenant=TenantId(tenant * 20))
    assert (await stage.ended(turn)).state is TurnState.DONE
    await eventually(lambda: c in stage.containers())
    return c


async def at_rest(stage: Stage, *cs: ConversationKey) -> None:
    """Until their owners have nothing to do with them either."""
    owned = [worker.process.placement.conversations for worker in stage.workers]
    actors = [held[c] for c in cs for held in owned if c in held]
    await eventually(lambda: all(actor.is_resting for actor in actors))


async def state(stage: Stage, c: ConversationKey) -> ConversationState:
    record = await stage.store.conversations.get(c)
    assert record is not None
    return record.state


async def test_the_longest_idle_go_until_enough_memory_is_there_again(stage: Stage) -> None:
    """Of any tenant: the one with the longest idle conversation pays first."""
    machine = Machine(stage)
    worker = await stage.worker(memory=machine.available_mb, **SETTINGS)
    cs = [await warm(stage, f"c{n}", tenant="ab"[n % 2]) for n in range(5)]
    await at_rest(stage, *cs)

    machine.total_mb = HIGH_MB + 2 * IDLE_AGENT_MB  # Three too many; low with more than four.
    await worker.process.relief.look()
    await eventually(lambda: sorted(worker.process.placement.conversations) == sorted(cs[3:]))

    assert sorted(stage.containers()) == sorted(cs[3:])
    for c in cs[:3]:
        record = await stage.store.conversations.get(c)
        assert record is not None
        assert (record.state, record.hibernated) == (ConversationState.COLD, Hibernation.MEMORY)
    assert worker.process.placement.hibernated == 3


async def test_above_the_low_mark_nobody_goes(stage: Stage) -> None:
    machine = Machine(stage)
    worker = await stage.worker(memory=machine.available_mb, **SETTINGS)
    cs = [await warm(stage, "a"), await warm(stage, "b")]
    await at_rest(stage, *cs)

    machine.total_mb = LOW_MB + 2 * IDLE_AGENT_MB
    for _ in range(3):
        await worker.process.relief.look()

    assert not any(a.is_being_stopped for a in worker.process.placement.conversations.values())
    assert sorted(stage.containers()) == sorted(cs)


async def test_running_turns_are_left_alone_and_a_hibernated_one_comes_back(stage: Stage) -> None:
    machine = Machine(stage)
    worker = await stage.worker(memory=machine.available_mb, **SETTINGS)
    rests = await warm(stage, "rests")
    await at_rest(stage, rests)
    busy = conversation("busy")
    turn = await stage.ask(busy, "hang")
    await stage.until_said(turn, 1)

    machine.total_mb = LOW_MB
    await eventually(lambda: stage.containers() == [busy])
    await worker.process.relief.look()
    assert stage.containers() == [busy]
    machine.total_mb = PLENTY_MB

    again = await stage.ask(rests, "echo back", history=("echo hi",), answers=("hi",))
    assert (await stage.ended(again)).state is TurnState.DONE
    record = await stage.store.conversations.get(rests)
    assert record is not None
    assert (record.hibernated, record.hibernated_at_ms) == (None, None)
    await stage.cancel(turn)


class SlowStops(MemoryHost):
    """A stop takes until the test opens the gate."""

    def __init__(self, machine: MemoryMachine, *, host: HostId = HOST) -> None:
        super().__init__(machine, host=host)
        self.gate, self.asked = asyncio.Event(), asyncio.Event()

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        self.asked.set()
        await self.gate.wait()
        await super().stop(id, grace_s=grace_s)


async def test_a_turn_that_comes_in_the_middle_waits_and_is_run(stage: Stage) -> None:
    machine, host = Machine(stage), SlowStops(stage.machine)
    await stage.worker(host=host, memory=machine.available_mb, **SETTINGS)
    c = await warm(stage, "c")
    await at_rest(stage, c)
    machine.total_mb = LOW_MB
    await host.asked.wait()
    assert await state(stage, c) is ConversationState.STOPPING

    turn = await stage.ask(c, "echo after all")
    machine.total_mb = PLENTY_MB
    assert await stage.state(turn) is TurnState.QUEUED
    host.gate.set()

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "after all"
    assert len(stage.agents[c]) == 2


async def test_a_worker_killed_in_the_middle_leaves_it_to_the_next(stage: Stage) -> None:
    machine, host = Machine(stage), SlowStops(stage.machine)
    first = await stage.worker(host=host, memory=machine.available_mb, **SETTINGS)
    c = await warm(stage, "c")
    await at_rest(stage, c)
    machine.total_mb = LOW_MB
    await host.asked.wait()

    await first.kill()
    machine.total_mb = PLENTY_MB
    await stage.worker(memory=machine.available_mb, **SETTINGS)
    await stage.lapse_lease(c)
    turn = await stage.ask(c, "echo after all")

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert stage.containers() == [c]
    assert len(stage.agents[c]) == 2


async def test_new_work_gets_the_memory_of_what_is_idle(stage: Stage) -> None:
    """A host full of idle agents refused it until their deadlines."""
    machine = Machine(stage)
    worker = await stage.worker(memory=machine.available_mb, container_memory_mb=1024)
    cs = [await warm(stage, f"c{n}") for n in range(3)]
    await at_rest(stage, *cs)
    machine.total_mb = 1300 + 2 * IDLE_AGENT_MB  # Not enough for another agent.
    await worker.process.relief.look()

    turn = await stage.ask(conversation("new"), "echo in")

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert cs[0] not in stage.containers()


async def test_the_workers_of_a_host_hibernate_together_what_one_would(stage: Stage) -> None:
    machine = Machine(stage)
    marks: dict[str, Any] = {"hibernate_below_mb": 2400, "hibernate_until_mb": 2400}
    one = await stage.worker(memory=machine.available_mb, **marks, slots=2)
    cs = [await warm(stage, f"c{n}") for n in range(2)]
    other = await stage.worker(memory=machine.available_mb, **marks)
    cs += [await warm(stage, f"c{n}") for n in range(2, 4)]
    await at_rest(stage, *cs)
    assert set(one.process.placement.conversations) == set(cs[:2])
    assert set(other.process.placement.conversations) == set(cs[2:])
    for worker in (one, other):
        await worker.process._beat()

    machine.total_mb = marks["hibernate_until_mb"] + 2 * IDLE_AGENT_MB  # Two too many.
    await eventually(lambda: len(stage.containers()) <= 2)
    for worker in (one, other):
        await worker.process.relief.look()

    assert sorted(stage.containers()) == sorted(cs[2:]), "the other worker's are idle for longer"
