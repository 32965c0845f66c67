"""A worker with spares: a new conversation gets one, and nobody gets the same one twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from infra.wire.errors import AgentUnreachable
from infra.wire.gateway import OpenSession
from infra.wire.ids import ConversationKey, Fence, WorkerId
from infra.wire.link import AgentSettings
from infra.wire.states import TurnState
from tests.fakes.memory_host import BrokenHost
from tests.fakes.worker_stage import TENANT, RunningWorker, Stage, conversation, eventually
from worker.hosts.host import Container, SessionFolders
from worker.hosts.pool.host import PooledHost
from worker.hosts.pool.pool import PreparedAgent, WarmPool
from worker.hosts.pool.records import SpareRecords

pytestmark = pytest.mark.slow

C, D = conversation("one"), conversation("two")


@pytest.fixture
async def stage(redis: Redis) -> AsyncIterator[Stage]:
    async with Stage(redis, spares_max=2, slots=4) as stage:
        yield stage


def pool_of(worker: RunningWorker) -> WarmPool:
    return worker.process.parts.pool


def host_of(worker: RunningWorker) -> PooledHost:
    host = worker.process.parts.host
    assert isinstance(host, PooledHost)
    return host


async def worker_with_spares(stage: Stage, count: int = 1, **more: object) -> RunningWorker:
    """A worker whose spares are ready."""
    worker = await stage.worker(**more)  # type: ignore[arg-type]
    await eventually(lambda: pool_of(worker).spares == count)
    return worker


async def test_a_new_conversation_gets_the_spare_and_its_folders(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    (spare,) = stage.containers()

    turn = await stage.ask(C, "echo hello there")
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "hello there"

    (agent,) = stage.agents[spare]
    assert [start.turn for start in agent.session.started] == [turn]
    assert agent.session.prepared is not None
    assert pool_of(worker).hits == 1
    folders = worker.process.parts.folders
    assert folders.of(C).sockets.is_dir()
    assert folders.of(C).workspace.is_dir()
    assert not folders.of(spare).sockets.exists()
    assert stage.gateway.sessions[C].socket_dir == str(folders.of(C).sockets)
    assert spare not in stage.gateway.sessions


async def test_its_later_turns_stay_in_the_container(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    (spare,) = stage.containers()
    await stage.ended(await stage.ask(C, "echo one", is_thin=True))
    await stage.ended(await stage.ask(C, "echo two", is_thin=True))
    assert stage.agents[spare][0].session.prompts == ["echo one", "echo two"]
    assert pool_of(worker).hits == 1


async def test_another_spare_takes_the_place_of_a_claimed_one(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    (first,) = stage.containers()
    await stage.ended(await stage.ask(C, "echo one", is_thin=True))
    await eventually(lambda: pool_of(worker).spares == 1)
    await stage.ended(await stage.ask(D, "echo two"))
    assert pool_of(worker).hits == 2
    assert [len(a.session.started) for agents in stage.agents.values() for a in agents][:2] == [
        1,
        1,
    ]
    assert first in stage.agents


async def test_the_files_of_a_conversation_move_to_its_spare(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    await stage.ended(await stage.ask(C, "echo one", idle_timeout_s=0.1))
    folders = worker.process.parts.folders.of(C)
    (folders.workspace / "sub").mkdir()
    (folders.workspace / "sub" / "notes").write_text("mine")
    await eventually(lambda: C not in worker.process.placement.conversations)
    await eventually(lambda: pool_of(worker).spares == 1)

    await stage.ended(await stage.ask(C, "echo two", is_thin=True))

    assert pool_of(worker).hits == 2
    assert (folders.workspace / "sub" / "notes").read_text() == "mine"


async def test_a_spare_that_died_is_handed_to_nobody(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    (dead,) = stage.containers()
    await stage.machine.kill(dead)
    await eventually(lambda: pool_of(worker).spares == 1 and dead not in stage.containers())
    turn = await stage.ask(C, "echo hello")
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert not stage.agents[dead][0].session.started


async def test_a_spare_that_dies_in_the_claim_is_not_noticed_by_the_user(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    host = host_of(worker)
    claim = host.claim

    async def claim_and_kill(container: Container, *args: object, **more: object) -> Container:
        claimed = await claim(container, *args, **more)  # type: ignore[arg-type]
        await stage.machine.kill(container.conversation)
        return claimed

    host.claim = claim_and_kill  # type: ignore[method-assign]
    turn = await stage.ask(C, "echo hello")
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.log_text(turn) == "hello"
    assert (pool_of(worker).hits, pool_of(worker).misses) == (0, 1)
    assert len(stage.agents[C]) == 1, "it was started for it"
    record = await stage.store.turns.get(turn)
    assert record is not None
    assert record.attempt == 1


async def test_a_spare_that_cannot_be_claimed_leaves_the_start_as_it_was(stage: Stage) -> None:
    worker = await worker_with_spares(stage)

    async def refuse(*_: object, **__: object) -> Container:
        raise OSError("no space left on device")

    host_of(worker).claim = refuse  # type: ignore[method-assign]
    turn = await stage.ask(C, "echo hello")
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert len(stage.agents[C]) == 1


async def test_a_worker_that_leaves_takes_its_spares_along(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    await stage.ended(await stage.ask(C, "echo hello"))
    await eventually(lambda: pool_of(worker).spares == 1)
    (claimed,) = (k for k in stage.agents if stage.agents[k][0].session.started)
    await worker.stop()
    assert stage.containers() == [claimed], "the conversation's goes on for the next worker"


async def test_a_claimed_container_goes_on_under_the_next_worker(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    (spare,) = stage.containers()
    await stage.ended(await stage.ask(C, "echo one", is_thin=True))
    await worker.stop()
    await stage.worker(spares_max=0)
    turn = await stage.ask(C, "echo two", is_thin=True)
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert stage.agents[spare][0].session.prompts == ["echo one", "echo two"]


async def test_the_next_worker_removes_a_killed_ones_spares(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    (left,) = stage.containers()
    await worker.kill()
    await stage.store.workers.leave(worker.id)
    following = await worker_with_spares(stage)
    await eventually(lambda: left not in stage.containers())
    assert not following.process.parts.folders.of(left).workspace.exists()
    turn = await stage.ask(C, "echo hello")
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert not stage.agents[left][0].session.started


async def test_two_workers_of_a_host_leave_each_other_their_spares(stage: Stage) -> None:
    one = await worker_with_spares(stage)
    two = await worker_with_spares(stage)
    for worker in (one, two):
        await pool_of(worker)._tidy()
    assert len(stage.containers()) == 2
    turns = [await stage.ask(conversation(f"c{n}"), "echo x") for n in range(4)]
    for turn in turns:
        assert (await stage.ended(turn)).state is TurnState.DONE
    started = [len(a.session.started) for agents in stage.agents.values() for a in agents]
    assert max(started) == 1, "an agent has served two conversations"


async def test_there_are_no_spares_where_memory_is_short(stage: Stage) -> None:
    free_mb = 100_000
    worker = await worker_with_spares(stage, memory=lambda: free_mb)
    free_mb = 50
    await eventually(lambda: not stage.containers())
    assert pool_of(worker).spares == 0


async def test_a_spare_that_was_not_used_is_replaced(stage: Stage) -> None:
    worker = await worker_with_spares(stage, spare_max_age_s=0.5)
    (first,) = stage.containers()
    await eventually(lambda: first not in stage.containers() and pool_of(worker).spares == 1)


async def test_the_reconciler_leaves_spares_alone(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    (spare,) = stage.containers()
    for _ in range(3):
        await worker.process.reaper.reconcile()
        await asyncio.sleep(0.3)  # Longer than an orphan is let be on this stage.
    assert stage.containers() == [spare]
    assert worker.process.parts.folders.of(spare).sockets.exists()
    assert await stage.store.conversations.get(spare) is None


async def test_an_engine_that_fails_is_not_asked_for_spares_all_the_time(stage: Stage) -> None:
    host = BrokenHost(stage.machine)
    worker = await stage.worker(host=host)
    await eventually(lambda: host.starts > 0)
    await asyncio.sleep(1.0)
    assert host.starts < 10
    assert pool_of(worker).spares == 0


async def test_a_spare_has_no_conversation_on_record(stage: Stage) -> None:
    worker = await worker_with_spares(stage)
    (spare,) = stage.containers()
    assert await worker.process.parts.host.list() == []
    assert worker.process.parts.folders.last_fence(spare) > Fence(2**52)
    assert ConversationKey(spare) not in stage.gateway.sessions


async def given_up(pool: WarmPool, is_at_it: Callable[[], Awaitable[object]]) -> None:
    """A claim whose client hangs up in the middle."""
    async with asyncio.TaskGroup() as group:
        claiming = group.create_task(pool.claim(C, Fence(5), pool._ready[0].settings))
        async with asyncio.timeout(10):
            await is_at_it()
        claiming.cancel()
    assert claiming.cancelled()


async def test_a_claim_that_succeeds_after_its_client_hung_up_is_undone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await worker_with_spares(stage)
    (spare,), (ready,) = stage.containers(), pool_of(worker)._ready
    folders, asked = worker.process.parts.folders, threading.Event()
    adopt = folders.adopt

    def slow(*args: object, **more: object) -> object:
        asked.set()
        threading.Event().wait(0.2)
        return adopt(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(folders, "adopt", slow)
    await given_up(pool_of(worker), lambda: asyncio.to_thread(asked.wait))

    assert spare not in stage.containers()
    assert C not in [one.conversation for one in await host_of(worker).list()]
    assert not ready.link.is_open
    assert pool_of(worker).hits == 0


async def test_a_spare_whose_claim_was_given_up_is_removed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await worker_with_spares(stage)
    (spare,), (ready,) = stage.containers(), pool_of(worker)._ready
    asked = asyncio.Event()

    async def hang(*_: object, **__: object) -> Container:
        asked.set()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    monkeypatch.setattr(host_of(worker), "claim", hang)
    await given_up(pool_of(worker), asked.wait)

    assert not ready.link.is_open
    await eventually(lambda: spare not in stage.containers())


SPARE = ConversationKey("5" * 24)


async def claim_that_broke_off(worker: RunningWorker, stage: Stage) -> None:
    """What a worker leaves that is killed in the middle of a claim for C, whose machine then starts
    anew: one file has been moved."""
    folders = worker.process.parts.folders
    await host_of(worker).make(SPARE, worker.id)
    moved = await asyncio.to_thread(folders.make, SPARE, Fence(2**52))
    (moved.workspace / "moved").write_text("mine")
    with SpareRecords(stage.folder).held(SPARE) as held:
        held.write(replace(held.record, claimed_by=C, fence=Fence(0)))


async def test_a_claim_that_broke_off_is_ended_before_a_start_uses_the_folders(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway's sockets were moved away with the folder that the claim replaces."""
    worker = await stage.worker(spares_max=0)
    await eventually(lambda: pool_of(worker)._group is not None)
    await asyncio.sleep(0.1)  # It has tidied, and does so again in half a minute.
    await claim_that_broke_off(worker, stage)
    folders = worker.process.parts.folders.of(C)
    open_session, opened_in = stage.gateway.open_session, list[int]()

    async def noted(c: ConversationKey, opened: OpenSession) -> object:
        opened_in.append(folders.sockets.stat().st_ino)
        return await open_session(c, opened)

    monkeypatch.setattr(stage.gateway, "open_session", noted)
    assert (await stage.ended(await stage.ask(C, "echo hello"))).state is TurnState.DONE

    assert opened_in[-1] == folders.sockets.stat().st_ino
    assert (folders.workspace / "moved").read_text() == "mine"
    assert SpareRecords(stage.folder).all() == []


async def test_files_of_a_deleted_conversation_do_not_come_back_by_a_claim(stage: Stage) -> None:
    worker = await stage.worker(spares_max=0)
    await stage.ended(await stage.ask(C, "echo hello", idle_timeout_s=0.1))
    await eventually(lambda: C not in worker.process.placement.conversations)
    await claim_that_broke_off(worker, stage)

    await stage.store.conversations.delete(C, tenant=TENANT, reason="test")
    folders = worker.process.parts.folders
    await eventually(lambda: not folders.of(C).workspace.exists())
    host = worker.process.parts.host_id
    async with asyncio.timeout(10):
        while await stage.store.conversations.wipes(host):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)
    await host_of(worker).tidy()

    assert not folders.of(C).workspace.exists()
    assert not folders.of(SPARE).workspace.exists()


async def test_a_conversation_with_too_many_files_costs_no_spare(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.hosts.folders.moves.ENTRIES_MAX", 2)
    worker = await worker_with_spares(stage)
    (spare,) = stage.containers()
    workspace = worker.process.parts.folders.make(C, Fence(0)).workspace
    for n in range(3):
        (workspace / f"{n}").touch()

    assert (await stage.ended(await stage.ask(C, "echo hello"))).state is TurnState.DONE

    assert (pool_of(worker).hits, pool_of(worker).misses) == (0, 1)
    assert spare in stage.containers()
    turn = await stage.ask(D, "echo hello")
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert [start.turn for start in stage.agents[spare][0].session.started] == [turn]


async def test_a_worker_that_leaves_waits_for_a_removal(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spare was taken from the list and its removal broken off, so its container stayed."""
    worker = await worker_with_spares(stage, spare_max_age_s=0.3)
    host, asked, may_go_on = host_of(worker), asyncio.Event(), asyncio.Event()
    remove = host.remove

    async def slow(*args: object) -> None:
        asked.set()
        await may_go_on.wait()
        await remove(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(host, "remove", slow)
    async with asyncio.timeout(10):
        await asked.wait()
    worker.stop_asked.set()
    await eventually(lambda: pool_of(worker)._is_closed)
    await asyncio.sleep(0.1)
    may_go_on.set()
    await worker.left()

    assert stage.containers() == []


async def test_the_last_worker_of_a_host_that_retires_removes_a_killed_ones_spares(
    stage: Stage,
) -> None:
    last = await worker_with_spares(stage, retire_on_exit=True)
    killed = await worker_with_spares(stage)
    await killed.kill()
    await stage.store.workers.leave(killed.id)
    assert len(stage.containers()) == 2

    await last.stop()

    assert stage.containers() == []
    assert SpareRecords(stage.folder).all() == []


class SlowMaking:
    """Has the spares of a pool wait before their CLI is connected."""

    def __init__(self, pool: WarmPool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pool = pool
        self.may_go_on = asyncio.Event()
        self.failure: AgentUnreachable | None = None
        self._prepare = pool._prepare
        monkeypatch.setattr(pool, "_prepare", self._wait)

    async def begun(self, stage: Stage) -> None:
        """The ready spare is gone, and another one has its container."""
        (spare,) = stage.containers()
        await stage.machine.kill(spare)
        await eventually(lambda: (m := self.pool._making) is not None and m.has_container)

    def has_waiter(self) -> bool:
        return (making := self.pool._making) is not None and making.is_waited_for

    async def _wait(self, folders: SessionFolders, settings: AgentSettings) -> PreparedAgent:
        await self.may_go_on.wait()
        if self.failure is not None:
            raise self.failure
        return await self._prepare(folders, settings)


async def test_a_conversation_waits_for_a_spare_whose_container_runs_already(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would start one of its own, and be later."""
    worker = await worker_with_spares(stage)
    making = SlowMaking(pool_of(worker), monkeypatch)
    await making.begun(stage)
    (spare,) = stage.containers()

    turn = await stage.ask(C, "echo hello")
    await eventually(making.has_waiter)
    making.may_go_on.set()

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert [start.turn for start in stage.agents[spare][0].session.started] == [turn]
    assert (pool_of(worker).hits, pool_of(worker).misses) == (1, 0)


async def test_of_two_conversations_one_waits_for_the_spare_in_the_making(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await worker_with_spares(stage)
    making = SlowMaking(pool_of(worker), monkeypatch)
    await making.begun(stage)
    first = await stage.ask(C, "echo one")
    await eventually(making.has_waiter)

    assert (await stage.ended(await stage.ask(D, "echo two"))).state is TurnState.DONE

    assert len(stage.agents[D]) == 1, "it was started for it"
    making.may_go_on.set()
    assert (await stage.ended(first)).state is TurnState.DONE


async def test_a_spare_that_fails_in_the_making_keeps_nobody_waiting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await worker_with_spares(stage)
    making = SlowMaking(pool_of(worker), monkeypatch)
    await making.begun(stage)
    turn = await stage.ask(C, "echo hello")
    await eventually(making.has_waiter)
    making.failure = AgentUnreachable("it is gone")
    making.may_go_on.set()

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert len(stage.agents[C]) == 1, "it was started for it"
    assert (pool_of(worker).hits, pool_of(worker).misses) == (0, 1)


async def test_a_spare_serves_while_all_start_slots_are_taken(stage: Stage) -> None:
    worker = await worker_with_spares(stage, start_slots=1)
    (spare,) = stage.containers()
    parts = worker.process.parts
    await stage.store.leases.acquire(D, WorkerId("host-b-00000001"), parts.host_id)
    await parts.starts.begin(D)
    assert parts.starts.is_full

    turn = await stage.ask(C, "echo hello")

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert [start.turn for start in stage.agents[spare][0].session.started] == [turn]
    assert parts.starts.is_full
    assert pool_of(worker).free_spares == 0, "nobody is expected any longer"
    assert not worker.process.placement.has_room()
