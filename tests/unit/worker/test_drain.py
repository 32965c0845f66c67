"""A worker that is told to leave in an awkward moment."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from infra.wire.ids import HostId, WorkerId
from infra.wire.states import TurnState, WorkerState
from tests.fakes.memory_host import MemoryHost
from tests.fakes.worker_stage import QUICK, Stage, conversation, eventually
from worker.ownership import HeldLease

pytestmark = pytest.mark.slow

C, D = conversation("one"), conversation("two")
HERE, THERE = HostId("host-a"), HostId("host-b")
UNHURRIED = replace(QUICK, sweep_at_least_s=60.0, sweep_at_most_s=60.0, reconcile_every_s=60.0)


async def test_a_hint_that_comes_as_a_worker_leaves_is_served_elsewhere(stage: Stage) -> None:
    leaving = await stage.worker(host=MemoryHost(stage.machine, host=HERE))
    busy = await stage.ask(C, "stream 60 every 20 ms")
    await stage.until_said(busy, 1)
    other = await stage.worker(host=MemoryHost(stage.machine, host=THERE))

    leaving.stop_asked.set()
    turn = await stage.ask(D, "echo served", is_hinted=False)
    await stage.store.queue.enqueue(turn, leaving.id)

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert D in other.process.placement.conversations
    assert (await stage.ended(busy)).state is TurnState.DONE, "and nothing else is hurt"
    await leaving.left()


async def test_a_turn_that_is_being_placed_as_a_worker_leaves_is_served_elsewhere(
    stage: Stage,
) -> None:
    leaving = await stage.worker(host=MemoryHost(stage.machine, host=HERE))
    ownership = leaving.process.parts.ownership
    acquire, asked, go_on = ownership.acquire, asyncio.Event(), asyncio.Event()

    async def slow_acquire(*args: Any, **options: Any) -> HeldLease:
        asked.set()
        await go_on.wait()
        return await acquire(*args, **options)

    ownership.acquire = slow_acquire  # type: ignore[method-assign]
    turn = await stage.ask(C, "echo served")
    await asked.wait()
    other = await stage.worker(host=MemoryHost(stage.machine, host=THERE))

    leaving.stop_asked.set()
    await eventually(lambda: not leaving.process.placement.has_room())
    go_on.set()

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert C in other.process.placement.conversations
    await leaving.left()


async def test_a_second_signal_changes_nothing(stage: Stage) -> None:
    worker = await stage.worker()
    turn = await stage.ask(C, "stream 40 every 20 ms")
    await stage.until_said(turn, 1)
    worker.stop_asked.set()
    await asyncio.sleep(0)
    await worker.stop()
    assert await stage.state(turn) is TurnState.DONE


@pytest.mark.parametrize("is_retiring", [False, True], ids=["draining", "retiring"])
async def test_a_worker_killed_while_it_leaves_costs_its_turns_nothing(
    stage: Stage, is_retiring: bool
) -> None:
    first = await stage.worker(retire_on_exit=is_retiring, drain_timeout_s=30)
    turn = await stage.ask(C, "stream 100 every 20 ms")
    await stage.until_said(turn, 10)
    first.stop_asked.set()
    await eventually(lambda: not first.process.placement.has_room())

    await first.kill()
    await stage.store.workers.leave(first.id)
    await stage.lapse_lease(C)
    await stage.worker()

    assert (await stage.ended(turn)).state is TurnState.DONE
    text = await stage.log_text(turn)
    assert [int(word.split("@")[0]) for word in text.split()] == list(range(100))
    assert len(stage.agents[C]) == 1


async def test_a_drained_worker_leaves_the_moment_its_last_turn_ends(stage: Stage) -> None:
    worker = await stage.worker(drain_timeout_s=60)
    turn = await stage.ask(C, "stream 30 every 20 ms")
    await stage.until_said(turn, 1)
    began = time.monotonic()
    await worker.stop()
    assert time.monotonic() - began < 20
    assert stage.containers() == [C], "its container stays for the next"


async def test_what_a_retired_container_knew_is_known_to_the_next(stage: Stage) -> None:
    first = await stage.worker(retire_on_exit=True)
    await stage.ended(await stage.ask(C, "echo one", is_thin=True))
    await first.stop()
    assert stage.containers() == []

    await stage.worker()
    turn = await stage.ask(C, "history", is_thin=True)

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "echo one | history"


async def test_who_retires_first_leaves_what_a_sibling_still_runs(stage: Stage) -> None:
    sibling = await stage.worker(retire_on_exit=True)
    turn = await stage.ask(C, "stream 60 every 20 ms")
    await stage.until_said(turn, 1)
    first = await stage.worker(retire_on_exit=True)
    sibling.stop_asked.set()
    async with asyncio.timeout(20):
        while sibling.id in await ready(stage):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)

    await first.stop()

    assert (await stage.ended(turn)).state is TurnState.DONE
    await sibling.left()
    assert stage.machine.kept == {}


async def test_a_turn_handed_to_a_full_sibling_goes_on_there(stage: Stage) -> None:
    """It has its container already: no slot is needed, and nobody else can go on with it."""
    first = await stage.worker()
    turn = await stage.ask(C, "stream 150 every 20 ms")
    await stage.until_said(turn, 1)
    full = await stage.worker(slots=1, timings=UNHURRIED)
    busy = await stage.ask(D, "hang", is_hinted=False)
    await stage.store.queue.enqueue(busy, full.id)
    await stage.until_said(busy, 1)

    await first.stop()

    assert (await stage.ended(turn)).state is TurnState.DONE
    text = await stage.log_text(turn)
    assert [int(word.split("@")[0]) for word in text.split()] == list(range(150))


async def ready(stage: Stage) -> set[WorkerId]:
    alive = await stage.store.workers.alive()
    return {worker.worker for worker in alive if worker.state is WorkerState.READY}
