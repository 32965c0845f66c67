"""A host whose engine starts no containers: what becomes of its turns, and of itself."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from infra.wire.errors import EngineFailed, ErrorCode, LeaseLost
from infra.wire.ids import Fence, HostId, WorkerId
from infra.wire.states import TurnState, WorkerState
from tests.fakes.memory_host import BrokenHost, MemoryHost, PickyHost, VanishingHost
from tests.fakes.worker_stage import (
    QUICK,
    WAIT_S,
    RunningWorker,
    Stage,
    conversation,
    eventually,
)
from worker.hosts.breaker import FAILURES_MAX
from worker.hosts.host import Container, ContainerSpec, SessionFolders

pytestmark = pytest.mark.slow

C = conversation("one")
OTHER_HOST = HostId("host-2")
UNHURRIED = replace(QUICK, sweep_at_least_s=60.0, sweep_at_most_s=60.0, reconcile_every_s=60.0)
"""It sweeps nothing by itself."""


async def until_worker_is(stage: Stage, worker: WorkerId, wanted: WorkerState) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await states(stage)).get(worker) is not wanted:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def states(stage: Stage) -> dict[WorkerId, WorkerState]:
    return {w.worker: w.state for w in await stage.store.workers.alive()}


async def attempt(stage: Stage, turn: str) -> int:
    return int(await stage.redis.hget(stage.keys.turn(turn), "attempt") or 0)  # type: ignore[arg-type, misc]


async def test_a_turn_waits_unharmed_until_the_only_host_works_again(stage: Stage) -> None:
    host = BrokenHost(stage.machine)
    worker = await stage.worker(host=host)
    turn = await stage.ask(C, "echo after all")
    await until_worker_is(stage, worker.id, WorkerState.FAILING)
    await stage.until_state(turn, TurnState.QUEUED)
    assert (host.starts, await attempt(stage, turn)) == (FAILURES_MAX, 0)

    host.mend()

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "after all"
    assert await attempt(stage, turn) == 1
    await until_worker_is(stage, worker.id, WorkerState.READY)


async def test_a_turn_of_a_failing_host_is_served_by_another_one(stage: Stage) -> None:
    failing = await stage.worker(host=BrokenHost(stage.machine))
    turn = await stage.ask(C, "echo elsewhere")
    await until_worker_is(stage, failing.id, WorkerState.FAILING)

    await stage.worker(host_id=OTHER_HOST)

    assert (await stage.ended(turn)).state is TurnState.DONE
    record = await stage.store.conversations.get(C)
    assert record is not None
    assert record.host == OTHER_HOST


async def test_a_conversation_leaves_its_home_when_that_starts_failing(stage: Stage) -> None:
    host = BrokenHost(stage.machine)
    host.is_broken = False
    home = await stage.worker(host=host)
    await stage.ended(await stage.ask(C, "echo one", idle_timeout_s=0.1))
    await eventually(lambda: not stage.machine.kept)
    host.is_broken = True
    await stage.ask(conversation("other"), "echo x")
    await until_worker_is(stage, home.id, WorkerState.FAILING)
    await stage.worker(host_id=OTHER_HOST)

    after = await stage.ask(C, "history", history=("echo one",))

    assert (await stage.ended(after)).state is TurnState.DONE
    assert await stage.log_text(after) == "echo one | history"


async def test_a_turn_no_host_can_start_ends_with_the_queues_word(stage: Stage) -> None:
    await stage.worker(host=BrokenHost(stage.machine), queue_timeout_s=1.0)
    end = await stage.ended(await stage.ask(C, "echo never"))
    assert end.state is TurnState.EXPIRED
    assert end.error is not None
    assert end.error.code is ErrorCode.QUEUE_TIMEOUT


async def test_a_failing_host_goes_on_with_the_conversations_it_has(stage: Stage) -> None:
    host = BrokenHost(stage.machine)
    host.is_broken = False
    worker = await stage.worker(host=host)
    await stage.ended(await stage.ask(C, "echo one"))
    host.is_broken = True
    waiting = await stage.ask(conversation("other"), "echo later")
    await until_worker_is(stage, worker.id, WorkerState.FAILING)

    turn = await stage.ask(C, "echo two", history=("echo one",))

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.state(waiting) is TurnState.QUEUED


async def test_containers_that_end_by_themselves_say_nothing_about_the_engine(
    stage: Stage,
) -> None:
    worker = await stage.worker(host=VanishingHost(stage.machine, vanishing=99))
    for name in ("one", "two", "three"):
        end = await stage.ended(await stage.ask(conversation(name), "echo never"))
        assert end.state is TurnState.FAILED
    assert (await states(stage))[worker.id] is WorkerState.READY


async def test_one_conversation_that_never_starts_does_not_bring_its_host_down(
    stage: Stage,
) -> None:
    await stage.worker(host=PickyHost(stage.machine, refused=C))
    turn = await stage.ask(C, "echo never")
    for number in range(3):
        other = await stage.ask(conversation(f"n{number}"), "echo hi")
        assert (await stage.ended(other)).state is TurnState.DONE
    assert int(await stage.redis.hget(stage.keys.turn(turn), "refused") or 0) > 0  # type: ignore[misc]


async def test_a_change_is_logged_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "worker.hosts.engine")
    host = BrokenHost(stage.machine)
    worker = await stage.worker(host=host)
    turns = [await stage.ask(conversation(f"n{i}"), "echo hi") for i in range(6)]
    await until_worker_is(stage, worker.id, WorkerState.FAILING)
    host.mend()
    for turn in turns:
        assert (await stage.ended(turn)).state is TurnState.DONE
    told = [record.getMessage() for record in caplog.records]
    assert sum(text.startswith("engine failing") for text in told) == 1
    assert told.count("engine works again") == 1


async def test_the_probe_leaves_nothing_behind(stage: Stage) -> None:
    host = BrokenHost(stage.machine)
    worker = await stage.worker(host=host)
    turn = await stage.ask(C, "echo hi", idle_timeout_s=0.1)
    await until_worker_is(stage, worker.id, WorkerState.FAILING)
    host.mend()
    await stage.ended(turn)
    await eventually(lambda: not stage.machine.kept)
    await eventually(lambda: not list((stage.folder / "s").glob("[!.]*")))
    assert [path.name for path in (stage.folder / "w").glob("[!.]*")] == [C]


async def test_sessions_that_cannot_be_written_count_as_the_hosts_failure(stage: Stage) -> None:
    worker = await stage.worker()
    sessions = stage.folder / "s"
    sessions.write_text("as good as a full disk")
    turn = await stage.ask(C, "echo hi")
    await until_worker_is(stage, worker.id, WorkerState.FAILING)
    sessions.unlink()
    assert (await stage.ended(turn)).state is TurnState.DONE


async def test_a_failing_worker_can_be_told_to_leave(stage: Stage) -> None:
    worker = await stage.worker(host=BrokenHost(stage.machine))
    turn = await stage.ask(C, "echo hi")
    await until_worker_is(stage, worker.id, WorkerState.FAILING)
    await worker.stop()
    await stage.worker(host=MemoryHost(stage.machine))
    assert (await stage.ended(turn)).state is TurnState.DONE


async def test_what_a_probe_finds_in_its_way_does_not_end_the_worker(stage: Stage) -> None:
    """A clock that was set back: what an earlier probe left counts as a newer owner's."""

    class Host(BrokenHost):
        is_in_the_way = True

        async def start(self, spec: ContainerSpec) -> Container:
            if self.is_broken or not self.is_in_the_way:
                return await super().start(spec)
            self.is_in_the_way = False
            raise LeaseLost(spec.conversation, spec.fence)

    host = Host(stage.machine)
    worker = await stage.worker(host=host)
    turn = await stage.ask(C, "echo hi")
    await until_worker_is(stage, worker.id, WorkerState.FAILING)

    host.mend()

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert not host.is_in_the_way


# Beside others


async def test_a_host_that_only_fails_to_start_containers_keeps_its_running_turns(
    stage: Stage,
) -> None:
    """Another host must not take it for gone, and end what can be adopted there."""
    first = await stage.worker(host=MemoryHost(stage.machine))
    turn = await stage.ask(C, "stream 150 every 20 ms")
    await stage.until_said(turn, 5)
    await failing_worker(stage)

    await first.kill()
    await stage.store.workers.leave(first.id)
    await stage.lapse_lease(C)
    await stage.worker(host_id=OTHER_HOST)

    assert (await stage.ended(turn)).state is TurnState.DONE
    text = await stage.log_text(turn)
    assert [int(word.split("@")[0]) for word in text.split()] == list(range(150))


async def test_a_worker_that_retires_leaves_a_failing_siblings_containers(stage: Stage) -> None:
    failing = await failing_worker(stage)
    retiring = await stage.worker(retire_on_exit=True)

    await retiring.stop()

    assert stage.containers() == [conversation("kept")]
    assert failing.process.placement.used == 1


async def failing_worker(stage: Stage) -> RunningWorker:
    """One with a warm conversation, whose engine then fails."""
    host = BrokenHost(stage.machine)
    host.is_broken = False
    worker = await stage.worker(host=host, timings=UNHURRIED)
    kept = await stage.ask(conversation("kept"), "echo hi", is_hinted=False)
    await stage.store.queue.enqueue(kept, worker.id)
    await stage.ended(kept)
    host.is_broken = True
    engine = worker.process.parts.engine
    for _ in range(FAILURES_MAX):
        spec = SessionFolders(stage.folder / "s" / "x", stage.folder / "w" / "x")
        with pytest.raises(EngineFailed):
            await engine.start(conversation("x"), Fence(1), spec)
    await until_worker_is(stage, worker.id, WorkerState.FAILING)
    return worker
