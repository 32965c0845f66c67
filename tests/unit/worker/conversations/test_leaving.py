"""How conversations, leftovers and workers go: idle, crowded out, orphaned, drained, retired."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from infra.wire.control import DrainWorker
from infra.wire.errors import ContainerFailed, ErrorCode
from infra.wire.ids import ConversationKey, Fence, HostId
from infra.wire.states import ConversationState, TurnState
from tests.fakes.memory_host import MemoryHost, SlowHost
from tests.fakes.worker_stage import QUICK, Stage, conversation, eventually
from worker.hosts.folders.folders import Folders
from worker.hosts.host import ContainerId, ContainerSpec, Limits
from worker.ownership import HeldLease

pytestmark = pytest.mark.slow

C = conversation("one")
D = conversation("two")
E = conversation("three")
LIMITS = Limits(cpus=1, memory_mb=256, pids=64, tmp_mb=16)


async def state_of(stage: Stage, c: ConversationKey) -> ConversationState:
    record = await stage.store.conversations.get(c)
    assert record is not None
    return record.state


# Idle and crowded


async def test_an_idle_conversation_loses_its_container_and_keeps_its_record(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=0.2))
    assert stage.containers() == [C]

    await eventually(lambda: not worker.process.placement.used)

    assert stage.containers() == []
    record = await stage.store.conversations.get(C)
    assert record is not None
    assert (record.state, record.owner, record.idle_at_ms) == (ConversationState.COLD, None, None)
    assert not (stage.folder / "s" / C).exists()
    assert (stage.folder / "w" / C).exists()
    assert C not in stage.gateway.sessions


async def test_a_conversation_comes_back_after_it_was_reaped(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=0.1))
    await eventually(lambda: not worker.process.placement.used)
    turn = await stage.ask(C, "history", history=("echo hi",))
    await stage.ended(turn)
    assert await stage.log_text(turn) == "echo hi | history"


async def test_the_longest_idle_conversation_makes_room_for_a_new_one(stage: Stage) -> None:
    await stage.worker(slots=2)
    await stage.ended(await stage.ask(C, "echo oldest"))
    await stage.ended(await stage.ask(D, "echo newer"))

    assert (await stage.ended(await stage.ask(E, "echo newest"))).state is TurnState.DONE

    await eventually(lambda: sorted(stage.containers()) == sorted([D, E]))


async def test_a_turn_waits_until_there_is_room(stage: Stage) -> None:
    worker = await stage.worker(slots=1)
    first = await stage.ask(C, "hang")
    await stage.until_said(first, 1)
    assert not worker.process.placement.has_room()
    second = await stage.ask(D, "echo my turn")
    assert await stage.state(second) is TurnState.QUEUED

    await stage.cancel(first)

    assert (await stage.ended(second)).state is TurnState.DONE


async def test_a_turn_that_waited_too_long_expires(stage: Stage) -> None:
    await stage.worker(slots=1)
    busy = await stage.ask(C, "hang")
    await stage.until_said(busy, 1)
    # Only from now on, or a slow machine ends the busy turn too before it has been started. This
    # one has no room either, and looks at what waits.
    impatient = await stage.worker(queue_timeout_s=0.1)
    impatient.process.placement.close()

    end = await stage.ended(await stage.ask(D, "echo never"))

    assert end.state is TurnState.EXPIRED
    assert end.error is not None
    assert end.error.code is ErrorCode.QUEUE_TIMEOUT


# Leftovers


async def leave_container(stage: Stage, c: str, *, host_id: str = "host-1") -> None:
    """A container nobody owns or knows of, started while Redis had all it has now."""
    key = conversation(c)
    lately = Fence(time.time_ns() // 1000 + 3_600_000_000)
    folders = Folders(stage.folder).make(key, lately)
    host = MemoryHost(stage.machine, host=HostId(host_id))
    await host.start(ContainerSpec(key, lately, folders, LIMITS, egress=False))


async def test_a_container_of_no_conversation_is_stopped_after_a_grace(stage: Stage) -> None:
    await leave_container(stage, "stray")
    await stage.worker()
    assert stage.containers() == [conversation("stray")]
    await eventually(lambda: not stage.machine.kept)
    await eventually(lambda: not any((stage.folder / "s").glob("[!.]*")))


async def test_containers_of_other_hosts_are_not_touched(stage: Stage) -> None:
    await leave_container(stage, "far", host_id="host-2")
    await leave_container(stage, "near")
    await stage.worker()
    await eventually(lambda: stage.containers() == [conversation("far")])


async def test_a_restarted_worker_adopts_a_warm_conversation(stage: Stage) -> None:
    first = await stage.worker()
    await stage.ended(await stage.ask(C, "echo one"))
    await first.kill()
    await stage.store.workers.leave(first.id)
    await stage.lapse_lease(C)

    second = await stage.worker()

    await eventually(lambda: C in second.process.placement.conversations)
    turn = await stage.ask(C, "history", history=("echo one",))
    await stage.ended(turn)
    assert await stage.log_text(turn) == "echo one | history"
    assert len(stage.agents[C]) == 1


async def test_a_container_that_vanished_without_a_word_is_noticed(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "wait 60000")
    await stage.until_said(turn, 1)
    [id] = stage.machine.kept
    stage.machine.feed.publish = lambda ended: None  # type: ignore[method-assign]
    await stage.machine.remove(id)
    end = await stage.ended(turn)
    assert end.error is not None
    assert end.error.code is ErrorCode.CONTAINER_LOST


async def test_only_workspaces_of_forgotten_conversations_are_dropped(stage: Stage) -> None:
    folders = Folders(stage.folder)
    long_ago = time.time() - 2 * stage.settings.retention_s
    for name in ("forgotten", "known", "recent"):
        workspace = folders.make(conversation(name), Fence(1)).workspace
        (workspace / "file").write_text("x")
        # What an agent can set says nothing.
        os.utime(workspace, (long_ago, long_ago))
        if name != "recent":
            os.utime(stage.folder / "f" / conversation(name), (long_ago, long_ago))
    await stage.ask(conversation("known"), "echo hi", is_hinted=False)
    # Its worker has no room, so that nothing but the tidying happens.
    worker = await stage.worker(slots=1)
    worker.process.placement.close()
    await eventually(lambda: not (stage.folder / "w" / conversation("forgotten")).exists())
    await worker.process.reaper.reconcile()
    assert (stage.folder / "w" / conversation("known") / "file").exists()
    assert (stage.folder / "w" / conversation("recent") / "file").exists()


# Leaving


async def test_a_worker_that_leaves_hands_its_running_turn_to_a_sibling(stage: Stage) -> None:
    first = await stage.worker()
    turn = await stage.ask(C, "stream 100 every 10 ms")
    await stage.until_said(turn, 10)
    second = await stage.worker()
    await second.process.reaper.sweep()

    began = time.monotonic()
    await first.stop()
    assert time.monotonic() - began < 4

    assert (await stage.ended(turn)).state is TurnState.DONE
    text = await stage.log_text(turn)
    assert [int(word.split("@")[0]) for word in text.split()] == list(range(100))
    assert len(stage.agents[C]) == 1
    assert C in second.process.placement.conversations
    assert {w.worker for w in await stage.store.workers.alive()} == {second.id}


async def test_warm_conversations_are_taken_over_by_the_sibling(stage: Stage) -> None:
    first = await stage.worker()
    await stage.ended(await stage.ask(C, "echo one"))
    second = await stage.worker()
    await second.process.reaper.sweep()
    await first.stop()
    await eventually(lambda: C in second.process.placement.conversations)
    assert stage.containers() == [C]


async def test_the_last_worker_lets_its_turns_end(stage: Stage) -> None:
    worker = await stage.worker()
    turn = await stage.ask(C, "stream 50 every 10 ms")
    waiting = await stage.ask(C, "echo later")
    await stage.until_said(turn, 5)

    await worker.stop()

    assert await stage.state(turn) is TurnState.DONE
    assert await stage.state(waiting) is TurnState.QUEUED
    assert stage.containers() == [C]
    await stage.worker()
    assert (await stage.ended(waiting)).state is TurnState.DONE
    assert len(stage.agents[C]) == 1


async def test_a_turn_longer_than_the_drain_is_left_to_the_next_worker(stage: Stage) -> None:
    worker = await stage.worker(drain_timeout_s=0.3)
    turn = await stage.ask(C, "stream 150 every 10 ms")
    await stage.until_said(turn, 5)
    await worker.stop()
    assert await stage.state(turn) is TurnState.RUNNING

    await stage.worker()

    assert (await stage.ended(turn)).state is TurnState.DONE
    text = await stage.log_text(turn)
    assert [int(word.split("@")[0]) for word in text.split()] == list(range(150))


async def test_a_retiring_worker_leaves_nothing(stage: Stage) -> None:
    worker = await stage.worker(retire_on_exit=True, drain_timeout_s=0.3)
    await stage.ended(await stage.ask(D, "echo warm"))
    await leave_container(stage, "stray")
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)

    await worker.stop()

    end = await stage.ended(turn)
    assert end.state is TurnState.INTERRUPTED
    assert end.error is not None
    assert end.error.code is ErrorCode.SHUTTING_DOWN
    assert stage.machine.kept == {}
    assert list((stage.folder / "s").glob("[!.]*")) == []
    assert stage.gateway.sessions == {}
    for c in (C, D):
        assert await state_of(stage, c) is ConversationState.COLD
    assert not await stage.redis.exists(stage.keys.lease(C), stage.keys.lease(D))


async def test_of_siblings_that_retire_at_once_the_last_one_leaves_nothing(stage: Stage) -> None:
    """Each saw the other one and left what was neither's."""
    timings = replace(QUICK, reconcile_every_s=60.0, orphan_grace_s=60.0)
    siblings = [
        await stage.worker(retire_on_exit=True, drain_timeout_s=0.3, timings=timings)
        for _ in range(3)
    ]
    for c in (C, D):
        await stage.ended(await stage.ask(c, "echo warm"))
    await leave_container(stage, "stray")

    async with asyncio.TaskGroup() as group:
        for worker in siblings:
            group.create_task(worker.stop())

    assert stage.machine.kept == {}
    assert list((stage.folder / "s").glob("[!.]*")) == []
    assert await stage.store.workers.alive() == []


async def test_a_retiring_worker_ends_a_turn_that_is_being_started(stage: Stage) -> None:
    host = SlowHost(stage.machine)
    worker = await stage.worker(host=host, retire_on_exit=True, drain_timeout_s=0.1)
    turn = await stage.ask(C, "echo hi")
    await host.asked.wait()
    await worker.stop()
    assert (await stage.ended(turn)).state is TurnState.INTERRUPTED
    assert stage.machine.kept == {}


async def test_a_leaving_worker_takes_nothing_new(stage: Stage) -> None:
    worker = await stage.worker()
    busy = await stage.ask(C, "hang")
    await stage.until_said(busy, 1)
    worker.stop_asked.set()
    await eventually(lambda: not worker.process.placement.has_room())
    turn = await stage.ask(D, "echo no")
    await stage.cancel(busy)
    await worker.left()
    assert await stage.state(turn) is TurnState.QUEUED


async def test_an_operator_can_drain_a_worker(stage: Stage) -> None:
    worker = await stage.worker()
    channel = stage.keys.control_channel(worker.id)
    await eventually(lambda: True)
    while not await stage.redis.publish(channel, DrainWorker().encode()):
        pass
    await worker.left()


async def test_an_operator_can_retire_a_worker(stage: Stage) -> None:
    """For good: a worker that only leaves keeps its containers for the next one."""
    worker = await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi"))
    assert stage.machine.kept
    await stage.store.workers.drain(worker.id, retire=True)
    await worker.left()
    assert stage.machine.kept == {}


@pytest.mark.parametrize("is_retiring", [False, True])
async def test_leaving_is_bounded_when_redis_is_away(stage: Stage, is_retiring: bool) -> None:
    server = FakeServer()
    redis = FakeAsyncRedis(server=server)
    async with Stage(redis, drain_timeout_s=0.3, disconnect_grace_s=0.3) as away:
        worker = await away.worker(retire_on_exit=is_retiring)
        turn = await away.ask(C, "hang")
        await away.until_said(turn, 1)
        server.connected = False
        await worker.stop()
        server.connected = True
    await redis.aclose()


# Files at home


async def test_a_cold_conversation_goes_back_to_the_host_of_its_files(stage: Stage) -> None:
    home = await stage.worker(host_id=HostId("host-a"))
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=0.05))
    await eventually(lambda: not home.process.placement.used)
    away = await stage.worker(host_id=HostId("host-b"))
    turn = await stage.ask(C, "hang", is_hinted=False)

    await away.process.placement.claim(turn)

    await stage.until_said(turn, 1)
    assert C in home.process.placement.conversations
    assert C not in away.process.placement.conversations
    await stage.cancel(turn)
    await stage.ended(turn)


async def test_a_home_without_room_is_not_waited_for(stage: Stage) -> None:
    home = await stage.worker(host_id=HostId("host-a"))
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=0.05))
    await eventually(lambda: not home.process.placement.used)
    await home.stop()
    away = await stage.worker(host_id=HostId("host-b"))

    turn = await stage.ask(C, "history", history=("echo hi",))

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "echo hi | history"
    assert C in away.process.placement.conversations


# Many at once, and turns only the leaving owner was told of


async def test_claims_that_run_at_once_do_not_take_more_than_the_slots(stage: Stage) -> None:
    worker = await stage.worker(slots=2)
    placement, acquire = worker.process.placement, worker.process.parts.ownership.acquire

    async def slow_acquire(*args: Any, **options: Any) -> HeldLease:
        await asyncio.sleep(0.05)
        return await acquire(*args, **options)

    worker.process.parts.ownership.acquire = slow_acquire  # type: ignore[method-assign]
    turns = [
        await stage.ask(conversation(f"n{n}"), "hang", is_hinted=False, deadline_s=5)
        for n in range(6)
    ]
    worker.process.reaper.sweep = _no_sweep  # type: ignore[method-assign]

    await asyncio.gather(*(placement.claim(turn) for turn in turns))

    assert placement.used == 2
    assert not placement.has_room()


async def test_a_turn_only_the_leaving_owner_was_told_of_is_started_by_another(
    stage: Stage,
) -> None:
    unhurried = replace(QUICK, sweep_at_least_s=60.0, sweep_at_most_s=60.0, reconcile_every_s=60.0)
    first = await stage.worker(timings=unhurried)
    await stage.ended(await stage.ask(C, "echo hi"))
    first.process.placement.turn_waits = lambda waits: None  # type: ignore[method-assign]
    turn = await stage.ask(C, "echo heard", is_hinted=False)
    second = await stage.worker(timings=unhurried)
    first.stop_asked.set()

    assert (await stage.ended(turn, timeout_s=5)).state is TurnState.DONE

    await first.left()
    assert C in second.process.placement.conversations


async def test_a_container_that_cannot_be_stopped_does_not_end_the_round(stage: Stage) -> None:
    worker = await stage.worker(timings=replace(QUICK, reconcile_every_s=60.0))
    for name in ("stubborn", "other"):
        await leave_container(stage, name)
    host = worker.process.parts.host
    stop, stubborn = host.stop, next(iter(stage.machine.kept))

    async def stop_but_one(id: ContainerId, *, grace_s: float = 2.0) -> None:
        if id == stubborn:
            raise ContainerFailed("it resists")
        await stop(id, grace_s=grace_s)

    host.stop = stop_but_one  # type: ignore[method-assign]
    await worker.process.reaper.reconcile()
    await asyncio.sleep(QUICK.orphan_grace_s + 0.1)

    await worker.process.reaper.reconcile()

    assert list(stage.machine.kept) == [stubborn]


async def _no_sweep() -> None:
    """Nothing but the hints of the test."""


# Agents without a worker


async def test_an_idle_agent_lives_while_its_worker_does_and_not_long_after(stage: Stage) -> None:
    """Nobody is left to stop the agents of a host that loses its workers for good."""
    timings = replace(QUICK, silence_s=0.1)
    worker = await stage.worker(timings=timings, agent_alone_s=1.5, idle_timeout_s=1.5)
    await stage.ended(await stage.ask(C, "echo hi"))
    # Longer than it lives without a word: only time can show that it gets some.
    await asyncio.sleep(2.2)
    (agent,) = stage.agents[C]
    assert not agent.died.is_set()

    await worker.kill()
    await eventually(agent.died.is_set)
