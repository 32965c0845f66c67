"""Conversations that moved from one host to another, and what is left where they were."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.wire.ids import Fence, HostId
from infra.wire.states import ConversationState, TurnState
from tests.fakes.manual_clock import FreezingClock
from tests.fakes.memory_gateway import MemoryGateway
from tests.fakes.memory_host import HOST, MemoryHost, UnlistedHost
from tests.fakes.worker_stage import QUICK, RunningWorker, Stage, conversation, eventually
from worker.hosts.host import ContainerSpec, Limits, SessionFolders

pytestmark = pytest.mark.slow

C = conversation("one")
LIMITS = Limits(cpus=1, memory_mb=256, pids=64, tmp_mb=16)
HERE, THERE = HostId("host-a"), HostId("host-b")


async def worker_on(stage: Stage, host: HostId, folder: Path) -> RunningWorker:
    # Each host has a gateway of its own.
    stage.real_gateway = MemoryGateway()
    return await stage.worker(host=MemoryHost(stage.machine, host=host), data_dir=folder)


async def lose(stage: Stage, worker: RunningWorker) -> None:
    """It dies, and nobody waits for its lease and heartbeat to lapse. Its container stays."""
    await worker.kill()
    await stage.store.workers.leave(worker.id)
    await stage.lapse_lease(C)


async def containers(stage: Stage, host: HostId) -> int:
    return len(await MemoryHost(stage.machine, host=host).list())


async def leave_another(stage: Stage, n: int) -> None:
    """One more container of the conversation, of an owner long ago."""
    sockets = stage.folder / f"left-{n}"
    sockets.mkdir()
    spec = ContainerSpec(C, Fence(1), SessionFolders(sockets, sockets), LIMITS, egress=False)
    await stage.machine.run(spec, cluster="test", host=HOST, created_ms=0)


async def after_a_turn_here(stage: Stage, here: Path, there: Path) -> RunningWorker:
    """The worker over there, when the one here is lost after an answer."""
    first = await worker_on(stage, HERE, here)
    await stage.ended(await stage.ask(C, "echo one"))
    await lose(stage, first)
    return await worker_on(stage, THERE, there)


@pytest.fixture
def here_and_there(stage: Stage) -> Iterator[tuple[Path, Path]]:
    """Each host's data folder. Short ones: a socket's path has to fit into its address."""
    with tempfile.TemporaryDirectory(prefix="agc-w-") as there:
        yield stage.folder, Path(there)


async def test_a_container_left_behind_by_a_move_is_not_gone_on_with(
    stage: Stage, here_and_there: tuple[Path, Path]
) -> None:
    here, _ = here_and_there
    second = await after_a_turn_here(stage, *here_and_there)
    moved = await stage.ask(C, "echo two", history=("echo one",))
    await stage.ended(moved)
    await lose(stage, second)
    assert await containers(stage, HERE) == 1

    await worker_on(stage, HERE, here)
    turn = await stage.ask(C, "history", history=("echo one", "echo two"))

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "echo one | echo two | history"
    assert await containers(stage, HERE) == 1, "another one took its place"


async def test_a_turn_started_elsewhere_is_not_started_again_in_a_container_left_behind(
    stage: Stage, here_and_there: tuple[Path, Path]
) -> None:
    here, _ = here_and_there
    second = await after_a_turn_here(stage, *here_and_there)
    turn = await stage.ask(C, "hang", history=("echo one",))
    await stage.until_said(turn, 1)
    # As if nothing of it had come to the log: only the record knows that it was started.
    await stage.redis.delete(stage.keys.turn_events(turn))
    await stage.redis.hset(stage.keys.turn(turn), "seq", "0")  # type: ignore[misc]
    await lose(stage, second)

    await worker_on(stage, HERE, here)

    assert (await stage.ended(turn)).state is TurnState.INTERRUPTED
    started = [s.turn for agent in stage.agents[C] for s in agent.session.started]
    assert started.count(turn) == 1


async def test_a_late_hint_does_not_end_a_turn_that_runs_on_another_host(
    stage: Stage, here_and_there: tuple[Path, Path]
) -> None:
    """Its owner had died, and only a worker of that host can go on with its container."""
    here, there = here_and_there
    away = await worker_on(stage, THERE, there)
    turn = await stage.ask(C, "stream 100 every 10 ms")
    await stage.until_logged(turn, 5)
    late = await worker_on(stage, HERE, here)
    await lose(stage, away)

    await late.process.placement.claim(turn)
    assert C not in late.process.placement.conversations

    await worker_on(stage, THERE, there)
    assert (await stage.ended(turn)).state is TurnState.DONE


async def test_what_is_left_of_a_moved_conversation_goes_and_nothing_of_its_new_home(
    stage: Stage, here_and_there: tuple[Path, Path]
) -> None:
    here, there = here_and_there
    first = await worker_on(stage, HERE, here)
    await stage.ended(await stage.ask(C, "echo one"))
    await lose(stage, first)
    await worker_on(stage, THERE, there)
    await stage.ended(await stage.ask(C, "echo two", history=("echo one",)))

    await worker_on(stage, HERE, here)

    async with asyncio.timeout(10):
        while await containers(stage, HERE):  # noqa: ASYNC110 - the machine tells nobody
            await asyncio.sleep(0.05)
    await eventually(lambda: not (here / "s" / C).exists())
    assert await containers(stage, THERE) == 1
    assert (there / "s" / C / "agent.sock").exists()
    record = await stage.store.conversations.get(C)
    assert record is not None
    assert (record.state, record.host) == (ConversationState.WARM, THERE)
    turn = await stage.ask(C, "history", history=("echo one", "echo two"))
    await stage.ended(turn)
    assert await stage.log_text(turn) == "echo one | echo two | history"


@pytest.mark.parametrize("is_kept", [True, False])
async def test_all_that_is_left_of_a_conversation_goes_but_the_container_on_record(
    stage: Stage, is_kept: bool
) -> None:
    """Only the first one did, and the others waited for a reconciler."""
    never = replace(QUICK, reconcile_every_s=600.0, orphan_grace_s=600.0)
    first = await stage.worker(timings=never)
    await stage.ended(await stage.ask(C, "echo one"))
    [recorded] = stage.machine.kept
    await lose(stage, first)
    for n in range(3):
        await leave_another(stage, n)
    if not is_kept:
        await stage.machine.remove(recorded)
    # The reconciler's round finds nothing: what goes, the new owner has cleared.
    host = UnlistedHost(stage.machine)
    second = await stage.worker(host=host, timings=never)
    await host.asked.wait()
    host.is_listed = True

    await second.process.placement.place(C, may_exceed=True)

    await eventually(lambda: list(stage.machine.kept) == [recorded] * is_kept)
    turn = await stage.ask(C, "history", history=("echo one",))
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "echo one | history"


async def test_an_idle_container_goes_at_once_when_its_worker_is_back_from_being_away(
    stage: Stage, here_and_there: tuple[Path, Path]
) -> None:
    """Another host's sweep had made the record cold; the container stayed for 60 to 95 s."""
    here, there = here_and_there
    clock = FreezingClock()
    slow = replace(QUICK, reconcile_every_s=60.0, orphan_grace_s=60.0)
    first = await stage.worker(
        host=MemoryHost(stage.machine, host=HERE), data_dir=here, clock=clock, timings=slow
    )
    await stage.ended(await stage.ask(C, "echo one", idle_timeout_s=0.2))
    clock.freeze()
    await stage.store.workers.leave(first.id)
    await stage.lapse_lease(C)
    await worker_on(stage, THERE, there)
    async with asyncio.timeout(20):
        while (record := await stage.store.conversations.get(C)) is None or record.container:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await containers(stage, HERE) == 1

    clock.thaw()

    await eventually(lambda: not stage.containers())
    await eventually(lambda: not first.process.placement.used)
