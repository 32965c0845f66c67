"""A burst of new conversations: few agents start at once, the rest waits its turn by tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from infra.wire.ids import ConversationKey, HostId, TenantId
from infra.wire.states import TurnState
from tests.fakes.memory_host import HOST, MemoryHost, StepwiseHost
from tests.fakes.scripted_agent import ScriptedAgent, SilentAgent
from tests.fakes.worker_stage import QUICK, Stage, conversation, eventually
from worker.hosts.host import ContainerSpec
from worker.hosts.start_slots import starts_at_once

pytestmark = pytest.mark.slow

FLOOD, ALONE = TenantId("f" * 20), TenantId("a" * 20)
UNHURRIED = replace(QUICK, sweep_at_least_s=60.0, sweep_at_most_s=60.0, reconcile_every_s=60.0)
"""Nothing but hints places a turn."""


async def released_one(host: StepwiseHost, *, left: int = 1, most: int = 1) -> ConversationKey:
    """The next start goes on; `left` conversations have not started yet, this one included."""
    await eventually(lambda: len(host.starting) == min(left, most))
    c = host.release()
    await eventually(lambda: c not in host.starting)
    return c


async def released_any(*hosts: StepwiseHost) -> None:
    host = next(host for host in hosts if host.starting)
    c = host.release()
    await eventually(lambda: c not in host.starting)


async def test_twelve_at_once_start_two_by_two_and_another_tenant_is_served_among_the_first(
    stage: Stage,
) -> None:
    """Of ten started at once on two cores the first one spoke after 8 s, of forty after 39 s."""
    host = StepwiseHost(stage.machine)
    await stage.worker(host=host, start_slots=2, timings=UNHURRIED)
    flood = [conversation(f"f{n}") for n in range(12)]
    turns = [await stage.ask(c, "echo hi", tenant=FLOOD) for c in flood]
    await eventually(lambda: len(host.starting) == 2)
    turns.append(await stage.ask(conversation("alone"), "echo me", tenant=ALONE))

    # The rest waits in the waiting room, where its place can be told.
    assert [await stage.store.turns.position(turn) for turn in turns] == [
        None, None, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1,
    ]  # fmt: skip
    order = [await released_one(host, left=left, most=2) for left in range(13, 0, -1)]

    # Of two that start at the same time either may be the first.
    served = [c for c in order if c in flood]
    assert all(abs(served.index(c) - place) <= 1 for place, c in enumerate(flood)), served
    assert order.index(conversation("alone")) <= 3
    assert host.most_at_once == 2
    for turn in turns:
        assert (await stage.ended(turn)).state is TurnState.DONE
        record = await stage.store.turns.get(turn)
        assert record is not None
        assert record.attempt == 1


async def test_a_start_lasts_until_the_agent_speaks(redis: Redis) -> None:
    """When its container runs, the dearest part of an agent's start is still to come."""

    @asynccontextmanager
    async def agent(spec: ContainerSpec) -> AsyncIterator[object]:
        kind = SilentAgent if spec.conversation == conversation("silent") else ScriptedAgent
        async with kind(spec.folders.sockets / "agent.sock") as served:
            yield served

    async with Stage(redis, agent=agent, start_slots=1) as stage:
        worker = await stage.worker(timings=UNHURRIED)
        silent = await stage.ask(conversation("silent"), "echo hi")
        await eventually(lambda: stage.containers() == [conversation("silent")])
        turn = await stage.ask(conversation("next"), "echo hi")
        assert not worker.process.placement.has_room()
        assert await stage.store.turns.position(turn) == 0

        await stage.cancel(silent)

        assert (await stage.ended(turn)).state is TurnState.DONE


async def test_a_start_counts_for_as_long_as_it_lasts(redis: Redis) -> None:
    """On a starved host a CLI may be started five times, a minute each. The start's time was over
    before that, and more starts were let in just where there was no time for them.
    """

    @asynccontextmanager
    async def agent(spec: ContainerSpec) -> AsyncIterator[object]:
        async with SilentAgent(spec.folders.sockets / "agent.sock") as served:
            yield served

    async with Stage(redis, agent=agent, start_slots=1) as stage:
        for _ in range(2):
            await stage.worker(timings=UNHURRIED)
        slow = conversation("slow")
        turn = await stage.ask(slow, "echo hi")
        await eventually(lambda: stage.containers() == [slow])
        starts = stage.keys.host_starts(HOST)
        # Whatever time it had is over.
        await redis.zadd(starts, {slow: 1})

        async with asyncio.timeout(10):
            while (await redis.zscore(starts, slow) or 0) <= 1:  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(0.01)
        waiting = await stage.ask(conversation("next"), "echo hi")
        assert await stage.store.turns.position(waiting) == 0

        await stage.cancel(turn)
        await stage.ended(turn)
        async with asyncio.timeout(10):
            while await redis.zscore(starts, slow) is not None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)


async def test_workers_of_one_host_share_its_starts_and_another_host_has_its_own(
    stage: Stage,
) -> None:
    host, far = StepwiseHost(stage.machine), StepwiseHost(stage.machine, host=HostId("host-2"))
    for _ in range(2):
        await stage.worker(host=host, start_slots=2)
    turns = [await stage.ask(conversation(f"c{n}"), "echo hi") for n in range(6)]
    await eventually(lambda: len(host.starting) == 2)

    await stage.worker(host=far, start_slots=1)

    await eventually(lambda: len(far.starting) == 1)
    for _ in range(6):
        await eventually(lambda: bool(host.starting or far.starting))
        await released_any(host, far)
    for turn in turns:
        assert (await stage.ended(turn)).state is TurnState.DONE
    assert (host.most_at_once, far.most_at_once) == (2, 1)


async def test_the_starts_of_a_worker_that_died_make_room_with_its_leases(stage: Stage) -> None:
    host = StepwiseHost(stage.machine)
    doomed = await stage.worker(host=host, start_slots=1)
    lost = await stage.ask(conversation("lost"), "echo hi")
    await eventually(lambda: len(host.starting) == 1)
    await doomed.kill()
    await stage.worker(host=MemoryHost(stage.machine), start_slots=1)
    turn = await stage.ask(conversation("next"), "echo hi")

    await stage.lapse_lease(conversation("lost"))

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert (await stage.ended(lost)).state is TurnState.DONE


async def test_a_conversation_that_is_warm_waits_for_no_start(stage: Stage) -> None:
    host = StepwiseHost(stage.machine)
    await stage.worker(host=host, start_slots=1)
    warm = conversation("warm")
    first = await stage.ask(warm, "echo hi")
    await released_one(host)
    await stage.ended(first)
    turn = await stage.ask(conversation("cold"), "echo hi")
    await eventually(lambda: len(host.starting) == 1)

    assert (await stage.ended(await stage.ask(warm, "echo again"))).state is TurnState.DONE

    assert await stage.state(turn) is TurnState.CLAIMED
    host.release()
    assert (await stage.ended(turn)).state is TurnState.DONE


async def test_a_container_that_has_to_start_anew_waits_for_a_start_too(stage: Stage) -> None:
    host = StepwiseHost(stage.machine)
    await stage.worker(host=host, start_slots=1)
    warm = conversation("warm")
    first = await stage.ask(warm, "hang")
    await released_one(host)
    await stage.until_said(first, 1)
    again = await stage.ask(warm, "echo again")
    other = await stage.ask(conversation("other"), "echo hi")
    await eventually(lambda: len(host.starting) == 1)

    await stage.machine.kill(warm)

    await stage.until_state(again, TurnState.CLAIMED)
    assert list(host.starting) == [conversation("other")]
    await released_one(host)
    await released_one(host)
    assert (await stage.ended(other)).state is TurnState.DONE
    assert (await stage.ended(again)).state is TurnState.DONE
    assert host.most_at_once == 1


def test_a_host_starts_as_many_at_once_as_it_has_cores_unless_configured() -> None:
    assert starts_at_once(0) >= 1
    assert starts_at_once(7) == 7
