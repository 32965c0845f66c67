"""What goes wrong around a turn, and what is seen of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from infra.store.conversations.leases import Lease
from infra.store.turns.turns import ADOPTIONS_MAX
from infra.wire.errors import ContainerFailed, ErrorCode
from infra.wire.ids import HostId
from infra.wire.link import Hello, Welcome, decode_command
from infra.wire.states import ConversationState, TurnState
from tests.fakes.link_client import connected
from tests.fakes.manual_clock import FreezingClock
from tests.fakes.memory_host import (
    EarlyEndHost,
    MemoryHost,
    NeverReadyHost,
    SlowHost,
    VanishingHost,
)
from tests.fakes.scripted_agent import Deltas, Say, ScriptedAgent, Tool, WaitFor
from tests.fakes.worker_stage import QUICK, RunningWorker, Stage, conversation, eventually
from worker.hosts.host import Container, ContainerSpec

pytestmark = pytest.mark.slow

C = conversation("one")
OTHER_HOST = HostId("host-2")


@asynccontextmanager
async def frozen_agent(spec: ContainerSpec) -> AsyncIterator[None]:
    """Greets once, then its process is frozen: sockets stay open and nothing answers."""
    greeted = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if isinstance(decode_command(line), Hello) and not greeted.is_set():
                    greeted.set()
                    writer.write(Welcome(agent_version="1", sdk_version="1").encode() + b"\n")
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path=spec.folders.sockets / "agent.sock")
    try:
        yield
    finally:
        server.close()


def has_turn(worker: RunningWorker) -> bool:
    actor = worker.process.placement.conversations.get(C)
    return actor is not None and actor.turn is not None


# The container and the agent


async def test_a_container_out_of_memory_fails_its_turn_and_is_replaced(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)

    await stage.machine.kill(C, is_out_of_memory=True)

    end = await stage.ended(turn)
    assert end.state is TurnState.FAILED
    assert end.error is not None
    assert end.error.code is ErrorCode.OUT_OF_MEMORY
    after = await stage.ask(C, "history", history=("hang",))
    await stage.ended(after)
    assert await stage.log_text(after) == "hang | history"
    assert len(stage.agents[C]) == 2


async def test_a_container_that_ends_does_not_touch_its_neighbours(stage: Stage) -> None:
    await stage.worker()
    neighbour = conversation("neighbour")
    turn, other = await stage.ask(C, "hang"), await stage.ask(neighbour, "stream 40 every 10 ms")
    await stage.until_said(turn, 1)
    await stage.until_said(other, 1)

    await stage.machine.kill(C, is_out_of_memory=False)

    end = await stage.ended(turn)
    assert end.error is not None
    assert end.error.code is ErrorCode.CONTAINER_LOST
    assert (await stage.ended(other)).state is TurnState.DONE


async def test_a_container_that_ends_between_turns_is_replaced(stage: Stage) -> None:
    await stage.worker()
    await stage.ended(await stage.ask(C, "echo one"))
    await stage.machine.kill(C)
    turn = await stage.ask(C, "echo two", history=("echo one",))
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert len(stage.agents[C]) == 2


async def test_a_container_that_vanishes_at_its_start_is_started_once_more(stage: Stage) -> None:
    await stage.worker(host=VanishingHost(stage.machine, vanishing=1))
    turn = await stage.ask(C, "echo second try")
    assert (await stage.ended(turn)).state is TurnState.DONE
    record = await stage.store.turns.get(turn)
    assert record is not None
    assert record.attempt == 2


async def test_a_container_whose_end_is_told_before_its_start_returns_is_started_once_more(
    stage: Stage,
) -> None:
    """Two answers of the engine that may come in either order; the turn ended with `internal`."""
    host = EarlyEndHost(stage.machine)
    await stage.worker(host=host)
    turn = await stage.ask(C, "echo second try")
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert host.starts == 2


async def test_a_turn_whose_containers_always_vanish_fails_after_two_starts(stage: Stage) -> None:
    await stage.worker(host=VanishingHost(stage.machine, vanishing=99))
    end = await stage.ended(await stage.ask(C, "echo never"))
    assert end.error is not None
    assert end.error.code is ErrorCode.CONTAINER_FAILED
    await eventually(lambda: not stage.containers())
    assert len(stage.agents[C]) == 2


async def test_an_agent_that_never_listens_fails_the_turn(stage: Stage) -> None:
    await stage.worker(host=NeverReadyHost(stage.machine), container_start_timeout_s=0.3)
    end = await stage.ended(await stage.ask(C, "echo hi"))
    assert end.error is not None
    assert end.error.code is ErrorCode.CONTAINER_FAILED
    await eventually(lambda: not stage.machine.kept)


async def test_an_agent_that_dies_in_its_container_fails_the_turn(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "die")
    end = await stage.ended(turn)
    assert end.error is not None
    assert end.error.code is ErrorCode.AGENT_FAILED
    assert await stage.log_text(turn) == "about to die "
    assert (await stage.ended(await stage.ask(C, "echo again"))).state is TurnState.DONE


async def test_a_frozen_agent_is_noticed_and_ended(redis: Redis) -> None:
    async with Stage(redis, agent=frozen_agent) as stage:
        await stage.worker()
        end = await stage.ended(await stage.ask(C, "echo hi"))
        assert end.error is not None
        assert end.error.code is ErrorCode.AGENT_FAILED
        await eventually(lambda: not stage.machine.kept)


async def test_an_agent_that_ignores_an_interrupt_is_killed_in_time(redis: Redis) -> None:
    async with Stage(redis, agent=frozen_agent, disconnect_grace_s=0.2) as stage:
        await stage.worker()
        turn = await stage.ask(C, "echo hi")
        await eventually(lambda: bool(stage.gateway.opened))
        await asyncio.sleep(0.05)

        await stage.cancel(turn)

        assert (await stage.ended(turn, timeout_s=5)).state is TurnState.CANCELLED
        await eventually(lambda: not stage.machine.kept, timeout_s=5)


async def test_a_turn_cancelled_while_its_container_starts_ends_at_once(stage: Stage) -> None:
    host = SlowHost(stage.machine)
    await stage.worker(host=host)
    turn = await stage.ask(C, "echo hi")
    await host.asked.wait()

    await stage.cancel(turn)

    assert (await stage.ended(turn, timeout_s=5)).state is TurnState.CANCELLED
    host.released.set()
    assert (await stage.ended(await stage.ask(C, "echo hi"))).state is TurnState.DONE


async def test_a_lost_link_of_an_ended_container_does_not_judge_the_next_one(redis: Redis) -> None:
    starts = 0

    @asynccontextmanager
    async def second_listens_late(spec: ContainerSpec) -> AsyncIterator[None]:
        nonlocal starts
        starts += 1
        pause_s = 0.0 if starts == 1 else 1.5 * QUICK.relink_s
        listening = asyncio.Event()

        async def listen() -> None:
            await asyncio.sleep(pause_s)
            async with ScriptedAgent(spec.folders.sockets / "agent.sock"):
                listening.set()
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(listen())
            if starts == 1:
                await listening.wait()
            try:
                yield
            finally:
                task.cancel()

    async with Stage(redis, agent=second_listens_late) as stage:
        worker = await stage.worker()
        turn = await stage.ask(C, "hang")
        await stage.until_said(turn, 1)
        after = await stage.ask(C, "echo two")
        actor = worker.process.placement.conversations[C]
        link = actor._link.current
        assert link is not None
        (stage.folder / "s" / C / "agent.sock").unlink()
        link.abort()
        await asyncio.sleep(0.1)
        await stage.machine.kill(C, is_out_of_memory=False)

        assert (await stage.ended(turn)).state is TurnState.FAILED
        assert (await stage.ended(after)).state is TurnState.DONE
        assert starts == 2


async def test_a_cut_link_loses_and_doubles_nothing(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "stream 60 every 10 ms")
    await stage.until_said(turn, 10)
    for _ in range(3):
        record = await stage.store.conversations.get(C)
        assert record is not None
        # Anybody who connects with the same fence cuts the link before.
        async with connected(stage.folder / "s" / C / "agent.sock", fence=record.fence):
            await asyncio.sleep(0.05)

    assert (await stage.ended(turn)).state is TurnState.DONE

    text = await stage.log_text(turn)
    assert [int(word.split("@")[0]) for word in text.split()] == list(range(60))
    await eventually(lambda: stage.live_text(turn) == text)


# The worker


async def test_a_killed_workers_turn_goes_on_with_every_event_once(redis: Redis) -> None:
    async with Stage(redis, script=[Tool("Bash", "ls"), Deltas(100, every_s=0.01)]) as stage:
        first = await stage.worker()
        turn = await stage.ask(C, "go")
        await stage.until_said(turn, 20)
        await first.kill()
        await stage.lapse_lease(C)
        await stage.worker()

        assert (await stage.ended(turn)).state is TurnState.DONE

        text = await stage.log_text(turn)
        assert [int(word.split("@")[0]) for word in text.split()] == list(range(100))
        await eventually(lambda: stage.live_text(turn) == text)
        assert len(stage.agents[C]) == 1
        assert len(stage.agents[C][0].session.started) == 1


async def test_a_turn_that_ended_while_no_worker_lived_is_found_finished(redis: Redis) -> None:
    go = asyncio.Event()
    async with Stage(redis, script=[Say("one "), WaitFor(go), Say("two")]) as stage:
        first = await stage.worker()
        turn = await stage.ask(C, "go")
        await stage.until_said(turn, 2)
        await first.kill()
        go.set()
        await stage.lapse_lease(C)
        await stage.worker()
        assert (await stage.ended(turn)).state is TurnState.DONE
        assert await stage.log_text(turn) == "one two"


async def test_a_killed_workers_turn_without_its_container_ends_visibly(stage: Stage) -> None:
    first = await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)
    await first.kill()
    await stage.machine.kill(C)
    await stage.lapse_lease(C)
    await stage.worker()

    end = await stage.ended(turn)

    assert end.state is TurnState.INTERRUPTED
    assert end.error is not None
    assert end.error.code is ErrorCode.CONTAINER_LOST
    assert (await stage.ended(await stage.ask(C, "echo hi"))).state is TurnState.DONE


async def test_a_worker_killed_before_the_start_costs_the_turn_nothing(stage: Stage) -> None:
    host = SlowHost(stage.machine)
    first = await stage.worker(host=host)
    turn = await stage.ask(C, "echo started after all")
    await host.asked.wait()
    await first.kill()
    await stage.lapse_lease(C)
    await stage.worker()
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "started after all"


async def test_a_running_turn_whose_owners_keep_dying_is_ended_in_public(stage: Stage) -> None:
    turn = await stage.ask(C, "hang")
    worker = await stage.worker()
    await stage.until_logged(turn, 1)  # else its first new owner is seen to get on
    for _ in range(ADOPTIONS_MAX):
        await worker.kill()
        await stage.lapse_lease(C)
        worker = await stage.worker()
        await eventually(partial(has_turn, worker))
    await worker.kill()
    await stage.lapse_lease(C)
    await stage.worker()

    end = await stage.ended(turn)

    assert end.error is not None
    assert end.error.code is ErrorCode.AGENT_FAILED
    assert len(stage.agents[C]) == 1
    assert (await stage.ended(await stage.ask(C, "echo next"))).state is TurnState.DONE


async def test_a_frozen_worker_publishes_nothing_after_its_conversation_was_taken(
    redis: Redis,
) -> None:
    async with Stage(redis, script=[Deltas(150, every_s=0.01)]) as stage:
        clock = FreezingClock()
        first = await stage.worker(clock=clock)
        turn = await stage.ask(C, "go")
        await stage.until_said(turn, 10)
        old_fence = stage.frames[turn][0].fence
        clock.freeze()
        await asyncio.sleep(0.3)
        await stage.lapse_lease(C)
        await stage.worker()
        await eventually(lambda: stage.frames[turn][-1].fence > old_fence)
        clock.thaw()

        assert (await stage.ended(turn)).state is TurnState.DONE

        fences = [frame.fence for frame in stage.frames[turn]]
        assert fences == sorted(fences)
        text = await stage.log_text(turn)
        assert [int(word.split("@")[0]) for word in text.split()] == list(range(150))
        await eventually(lambda: not first.process.placement.used)


async def test_a_lost_lease_leaves_the_container_to_its_new_owner(stage: Stage) -> None:
    worker = await stage.worker()
    await stage.ended(await stage.ask(C, "echo one"))
    # In one step: between a loss and another's acquire the worker may win it back.
    async with stage.redis.pipeline(transaction=True) as theft:
        theft.hset(stage.keys.conversation(C), "owner", "thief")
        theft.set(stage.keys.lease(C), "thief", px=60_000)
        await theft.execute()
    await eventually(lambda: not worker.process.placement.used)
    assert stage.containers() == [C]


async def test_a_dead_hosts_turn_is_ended_by_another_host(stage: Stage) -> None:
    first = await stage.worker(host_id=OTHER_HOST)
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)
    await first.kill()
    await stage.store.workers.leave(first.id)
    await stage.lapse_lease(C)
    await stage.worker()

    end = await stage.ended(turn)

    assert end.state is TurnState.INTERRUPTED
    assert end.error is not None
    assert end.error.code is ErrorCode.CONTAINER_LOST
    after = await stage.ask(C, "echo elsewhere")
    assert (await stage.ended(after)).state is TurnState.DONE


async def test_a_turn_is_left_to_a_living_worker_of_its_host(stage: Stage) -> None:
    first = await stage.worker(host_id=OTHER_HOST)
    turn = await stage.ask(C, "stream 100 every 20 ms")
    await stage.until_said(turn, 1)
    await stage.worker(timings=QUICK)
    await stage.worker(host_id=OTHER_HOST)
    await first.kill()
    await stage.lapse_lease(C)
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert len(stage.agents[C]) == 1


# Redis


async def test_a_turn_survives_redis_being_away(stage: Stage) -> None:
    server = FakeServer()
    redis = FakeAsyncRedis(server=server)
    async with Stage(redis, script=[Deltas(100, every_s=0.01)]) as away:
        await away.worker()
        turn = await away.ask(C, "go")
        await away.until_said(turn, 10)
        server.connected = False
        await asyncio.sleep(0.7)
        server.connected = True

        assert (await away.ended(turn)).state is TurnState.DONE

        text = await away.log_text(turn)
        assert [int(word.split("@")[0]) for word in text.split()] == list(range(100))
    await redis.aclose()


async def test_an_emptied_redis_does_not_stop_the_worker(stage: Stage) -> None:
    worker = await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)
    conversations = worker.process.placement.conversations
    former = conversations[C]
    await stage.redis.flushall()
    # It may be back at once: its container is still there.
    await eventually(lambda: conversations.get(C) is not former)

    after = await stage.ask(C, "echo back again", history=("hang",))

    assert (await stage.ended(after)).state is TurnState.DONE
    assert await stage.log_text(after) == "back again"


async def test_a_conversation_that_is_cold_has_neither_lease_nor_socket(stage: Stage) -> None:
    await stage.worker(host=MemoryHost(stage.machine))
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=0.1))
    await eventually(lambda: not stage.machine.kept)
    await eventually(lambda: not (stage.folder / "s" / C).exists())
    record = None
    for _ in range(100):
        record = await stage.store.conversations.get(C)
        if record and record.state is ConversationState.COLD and record.owner is None:
            break
        await asyncio.sleep(0.02)
    assert record is not None
    assert (record.state, record.owner, record.container) == (ConversationState.COLD, None, None)
    assert C not in stage.gateway.sessions


async def test_an_engine_that_does_not_answer_at_once_costs_no_turn(stage: Stage) -> None:
    class HesitantHost(MemoryHost):
        refusals = 3

        async def list(self) -> Sequence[Container]:
            if self.refusals:
                self.refusals -= 1
                raise ContainerFailed("the engine did not answer in time")
            return await super().list()

    first = await stage.worker()
    turn = await stage.ask(C, "stream 100 every 20 ms")
    await stage.until_said(turn, 3)
    await first.kill()
    await stage.lapse_lease(C)

    await stage.worker(host=HesitantHost(stage.machine))

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert len(stage.agents[C]) == 1


# What cannot be read


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_turn_that_no_worker_can_read_ends_and_the_next_one_runs(
    stage: Stage, has_begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Sealed with another content secret, or by another version: no try would go better."""
    first = await stage.worker()
    if has_begun:
        turn = await stage.ask(C, "hang")
        await stage.until_said(turn, 1)
        await first.kill()
    else:
        await first.kill()
        turn = await stage.ask(C, "hang", is_hinted=False)
    await stage.redis.set(stage.keys.turn_request(turn), b"s1.not to be read", keepttl=True)
    await stage.lapse_lease(C)

    await stage.worker()

    end = await stage.ended(turn)
    assert end.error is not None
    assert end.error.code is ErrorCode.INTERNAL
    after = await stage.ask(C, "echo on", history=("hang",))
    assert (await stage.ended(after)).state is TurnState.DONE
    assert [record.getMessage() for record in caplog.records].count("conversation failed") == 0


async def test_an_error_of_ours_is_not_met_again_at_once(stage: Stage) -> None:
    timings = replace(QUICK, sweep_at_least_s=60.0, sweep_at_most_s=60.0, reconcile_every_s=60.0)
    worker = await stage.worker(timings=timings)
    turns, tries = worker.process.parts.turns, asyncio.Semaphore(0)
    claim = turns.claim

    async def broken(lease: Lease) -> None:
        tries.release()
        raise RuntimeError("a fault of ours")

    turns.claim = broken  # type: ignore[method-assign]
    turn = await stage.ask(C, "echo at last")
    await tries.acquire()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(tries.acquire(), 0.5)
    turns.claim = claim  # type: ignore[method-assign]

    assert await stage.state(turn) is TurnState.QUEUED
    await stage.worker()
    assert (await stage.ended(turn)).state is TurnState.DONE
