"""What every container host promises: in memory, in bubblewrap and in Docker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from infra.wire.errors import LeaseLost
from tests.contract.hosts.conftest import Machine
from tests.fakes import probe
from worker.hosts.form import USUAL_FORM, ContainerForm
from worker.hosts.host import ContainerExit, ContainerId
from worker.hosts.leftovers import stop_leftovers


async def _next(exits: AsyncIterator[ContainerExit]) -> ContainerExit:
    async with asyncio.timeout(30):
        return await anext(exits)


async def test_a_started_container_listens_in_the_sessions_folder(machine: Machine) -> None:
    host, spec = machine.host(), machine.spec()
    await host.check()

    container = await host.start(spec)

    await probe.listening(spec.folders.sockets)
    assert container.is_running
    assert (container.conversation, container.fence) == (spec.conversation, spec.fence)


async def test_a_successor_finds_the_containers_of_a_closed_host(machine: Machine) -> None:
    first, spec = machine.host(), machine.spec()
    started = await first.start(spec)
    await first.aclose()

    assert await machine.host().list() == [started]
    await probe.listening(spec.folders.sockets)


async def test_a_successor_is_told_of_the_end_of_an_adopted_container(machine: Machine) -> None:
    first, spec = machine.host(), machine.spec()
    started = await first.start(spec)
    await first.aclose()
    successor = machine.host()
    exits = successor.exits()
    await successor.list()

    await machine.kill(spec, started.id)

    ended = await _next(exits)
    assert (ended.id, ended.conversation) == (started.id, spec.conversation)


async def test_a_successor_can_stop_an_adopted_container(machine: Machine) -> None:
    first, spec = machine.host(), machine.spec()
    started = await first.start(spec)
    await first.aclose()
    successor = machine.host()

    await successor.stop(started.id)

    assert await successor.list() == []


async def test_what_a_killed_worker_left_is_stopped_and_nothing_of_others(
    machine: Machine,
) -> None:
    """The end of an `agcluster up` whose worker could not stop its agents in time."""
    first, other = machine.host(), machine.host("host-2")
    await first.start(machine.spec())
    kept = await other.start(machine.spec())
    await first.aclose()

    assert await stop_leftovers(machine.host()) == 0

    assert await machine.host().list() == []
    assert [one.id for one in await other.list()] == [kept.id]


async def test_another_host_of_the_cluster_does_not_list_ours(machine: Machine) -> None:
    await machine.host("host-1").start(machine.spec())

    assert await machine.host("host-2").list() == []


async def test_stopping_twice_or_something_unknown_is_no_error(machine: Machine) -> None:
    host, spec = machine.host(), machine.spec()
    started = await host.start(spec)

    await host.stop(started.id)
    await host.stop(started.id)
    await host.stop(ContainerId("never-there"))

    assert await host.list() == []


async def test_limiting_one_that_runs_or_is_gone_is_no_error(machine: Machine) -> None:
    host, spec = machine.host(), machine.spec()
    started = await host.start(spec)

    await host.limit_cpus(started.id, 0.5)
    await host.stop(started.id)
    await host.limit_cpus(started.id, 0.5)
    await host.limit_cpus(ContainerId("never-there"), 0.5)

    assert await host.list() == []


async def test_a_killed_container_is_told_as_out_of_memory_and_stays_listed(
    machine: Machine,
) -> None:
    """Nobody asked for its end, so the kernel did: what cannot be told apart is told as that."""
    host, spec = machine.host(), machine.spec()
    exits = host.exits()
    started = await host.start(spec)

    await machine.kill(spec, started.id)

    assert await _next(exits) == ContainerExit(started.id, spec.conversation, 137, True)
    assert [(c.id, c.is_running) for c in await host.list()] == [(started.id, False)]


async def test_a_stop_on_purpose_is_never_told_as_out_of_memory(machine: Machine) -> None:
    host, spec = machine.host(), machine.spec()
    exits = host.exits()
    started = await host.start(spec)

    await host.stop(started.id, grace_s=0)

    ended = await _next(exits)
    assert (ended.id, ended.is_out_of_memory) == (started.id, False)


async def test_each_end_is_told_once_to_every_watcher(machine: Machine) -> None:
    host = machine.host()
    one, other = host.exits(), host.exits()
    ids = []
    for _ in range(2):
        spec = machine.spec()
        started = await host.start(spec)
        ids.append(started.id)
        await machine.kill(spec, started.id)
        assert (await _next(one)).id == started.id

    assert [(await _next(other)).id, (await _next(other)).id] == ids


async def test_a_leftover_of_the_conversation_is_replaced(machine: Machine) -> None:
    host, spec = machine.host(), machine.spec()
    old = await host.start(spec)

    new = await host.start(machine.spec(spec.conversation, fence=2))

    assert new.id != old.id
    assert await host.list() == [new]
    await probe.listening(spec.folders.sockets)


async def test_a_stale_owner_cannot_replace_its_successors_container(machine: Machine) -> None:
    host, spec = machine.host(), machine.spec(fence=5)
    newer = await host.start(spec)

    with pytest.raises(LeaseLost):
        await host.start(machine.spec(spec.conversation, fence=4))

    assert await host.list() == [newer]


@pytest.mark.parametrize("passes", [0, 1, 3])
async def test_a_cancelled_start_leaves_nothing_behind(machine: Machine, passes: int) -> None:
    host, spec = machine.host(), machine.spec()

    async with asyncio.TaskGroup() as group:
        start = group.create_task(host.start(spec))
        for _ in range(passes + 1):
            await asyncio.sleep(0)
        start.cancel()

    assert start.cancelled()
    assert await host.list() == []


async def test_ten_containers_start_and_end_at_once(machine: Machine) -> None:
    host = machine.host()
    specs = [machine.spec() for _ in range(10)]

    async with asyncio.TaskGroup() as group:
        starts = [group.create_task(host.start(spec)) for spec in specs]
    started = {start.result().id for start in starts}

    assert {c.id for c in await host.list() if c.is_running} == started
    async with asyncio.TaskGroup() as group:
        for id in started:
            group.create_task(host.stop(id, grace_s=0))
    assert await host.list() == []


async def test_a_successor_knows_the_form_of_an_adopted_container(machine: Machine) -> None:
    form = ContainerForm(bundle="b" * 64)
    spec, plain = replace(machine.spec(), form=form), machine.spec()
    host = machine.host()
    for one in (spec, plain):
        await host.start(one)
    found = {one.conversation: one.form for one in await machine.host().list()}
    assert found == {spec.conversation: form, plain.conversation: USUAL_FORM}
