"""A spare on every kind of host: its folders follow it, and its claim makes it a conversation's."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from infra.wire.errors import LeaseLost
from infra.wire.ids import ConversationKey, Fence
from tests.contract.hosts.conftest import WORKER, Machine, claimed, pooled, started_as_spare
from tests.fakes import probe
from worker.hosts.folders.folders import Folders
from worker.hosts.pool.records import NotToBeHad


def new_key() -> ConversationKey:
    return ConversationKey(secrets.token_hex(12))


async def test_what_a_claimed_spare_writes_is_its_conversations(real_machine: Machine) -> None:
    host = pooled(real_machine, real_machine.host())
    spec, _ = await claimed(real_machine, host)
    code = "open('/workspace/made', 'w').write('here'); open('/run/agcluster/too', 'w').close()"
    assert (await probe.python(spec.folders.sockets, code)).code == 0
    assert (spec.folders.workspace / "made").read_text() == "here"
    assert (spec.folders.sockets / "too").exists()


async def test_the_files_of_its_conversation_are_inside_at_once(real_machine: Machine) -> None:
    c = new_key()
    workspace = Folders(real_machine.data_dir).make(c, Fence(1)).workspace
    (workspace / "sub").mkdir()
    (workspace / "sub" / "notes").write_text("mine")
    host = pooled(real_machine, real_machine.host())
    spec, _ = await claimed(real_machine, host, c)
    seen = await probe.run(spec.folders.sockets, "cat", "/workspace/sub/notes")
    assert seen.out == "mine"


async def test_sockets_that_open_after_the_claim_are_reached_from_inside(
    real_machine: Machine,
) -> None:
    """As the gateway's, which listens for conversations only."""
    host = pooled(real_machine, real_machine.host())
    spec, _ = await claimed(real_machine, host)

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        writer.close()

    code = """
import socket
line = socket.socket(socket.AF_UNIX)
line.connect("/run/agcluster/model.sock")
print(line.recv(100).decode())
"""
    path = spec.folders.sockets / "model.sock"
    async with await asyncio.start_unix_server(greet, path):
        path.chmod(0o666)
        assert (await probe.python(spec.folders.sockets, code)).out.strip() == "welcome"


async def test_before_the_claim_there_is_no_socket_but_its_own(real_machine: Machine) -> None:
    host = pooled(real_machine, real_machine.host())
    spec, _ = await started_as_spare(real_machine, host)
    await probe.listening(spec.folders.sockets)
    seen = await probe.run(spec.folders.sockets, "ls", "-A", "/run/agcluster", "/workspace")
    assert seen.out.split() == ["/run/agcluster:", "agent.sock", "/workspace:"]


async def test_a_worker_that_comes_later_finds_it_with_its_conversation(machine: Machine) -> None:
    first = machine.host()
    host = pooled(machine, first)
    spec, taken = await claimed(machine, host)
    await first.aclose()
    later = pooled(machine, machine.host())
    (found,) = await later.list()
    assert (found.id, found.conversation, found.fence) == (taken.id, spec.conversation, Fence(5))
    assert await later.spares() == []
    await later.stop(taken.id)
    assert await later.list() == []


async def test_a_worker_that_comes_later_finds_unclaimed_ones_as_spares(machine: Machine) -> None:
    first = machine.host()
    spec, container = await started_as_spare(machine, pooled(machine, first))
    await first.aclose()
    later = pooled(machine, machine.host())
    assert await later.list() == []
    (found,) = await later.spares()
    assert found.record.worker == WORKER
    assert found.container is not None
    assert found.container.id == container.id
    await later.remove(spec.conversation, container.id)
    assert await machine.host().list() == []
    assert not spec.folders.workspace.exists()


async def test_its_end_is_reported_as_its_conversations(machine: Machine) -> None:
    host = pooled(machine, machine.host())
    exits = host.exits()
    made, container = await started_as_spare(machine, host)
    await probe.listening(made.folders.sockets)
    c = new_key()
    await host.claim(container, c, Fence(5), by=WORKER)
    await machine.kill(made, container.id)
    async with asyncio.timeout(30):
        ended = await anext(exits)
    assert (ended.id, ended.conversation) == (container.id, c)


async def test_a_start_takes_the_place_of_a_claimed_spare(machine: Machine) -> None:
    host = pooled(machine, machine.host())
    spec, taken = await claimed(machine, host)
    with pytest.raises(LeaseLost):
        await host.start(machine.spec(spec.conversation, fence=4, data_dir=machine.data_dir / "x"))
    cold = await host.start(machine.spec(spec.conversation, fence=6))
    assert [one.id for one in await host.list()] == [cold.id]
    assert taken.id != cold.id


async def test_two_workers_of_a_host_cannot_have_the_same_one(machine: Machine) -> None:
    host, other = pooled(machine, machine.host()), pooled(machine, machine.host())
    _, container = await started_as_spare(machine, host)
    claims = await asyncio.gather(
        *(who.claim(container, new_key(), Fence(5), by=WORKER) for who in (host, other)),
        return_exceptions=True,
    )
    assert sum(isinstance(claim, NotToBeHad) for claim in claims) == 1
    assert len(await host.list()) == 1
