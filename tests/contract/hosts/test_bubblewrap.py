"""What only bubblewrap must take care of itself: there is no engine that remembers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.wire.errors import EngineFailed
from tests.contract.hosts.conftest import BubblewrapMachine, bubblewrap_machine
from tests.fakes import probe
from worker.hosts.bubblewrap.host import BubblewrapHost
from worker.hosts.bubblewrap.records import Process, Processes, StartUnderWay
from worker.hosts.host import ContainerId, ContainerSpec

pytestmark = pytest.mark.bwrap

WORKER = """
import asyncio, sys
from pathlib import Path
from infra.wire.ids import ConversationKey, Fence, HostId
from tests.fakes import probe
from worker.hosts.bubblewrap.host import BubblewrapHost, BubblewrapOptions
from worker.hosts.folders.folders import Folders
from worker.hosts.host import ContainerSpec, Limits

async def main(data_dir, cluster, conversation):
    options = BubblewrapOptions(cluster, Path(data_dir), command=probe.BUBBLEWRAP_COMMAND)
    host = BubblewrapHost(HostId("host-1"), options)
    folders = Folders(Path(data_dir)).make(ConversationKey(conversation), Fence(1))
    limits = Limits(cpus=1.0, memory_mb=256, pids=64, tmp_mb=16)
    started = await host.start(ContainerSpec(conversation, Fence(1), folders, limits, False))
    print(started.id, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def bubblewrap(data_dir: Path) -> AsyncIterator[BubblewrapMachine]:
    async with bubblewrap_machine(data_dir) as machine:
        yield machine


async def test_a_sandbox_outlives_the_kill_of_its_worker_and_its_end_is_told_with_its_code(
    bubblewrap: BubblewrapMachine,
) -> None:
    spec = bubblewrap.spec()
    arguments = (str(bubblewrap.data_dir), bubblewrap.cluster, spec.conversation)
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    async with asyncio.timeout(40):
        id = (await worker.stdout.readline()).decode().strip()
        await probe.listening(spec.folders.sockets)
        worker.kill()
        await worker.wait()
    # Ends the pipe; without it the transport is closed by the garbage collector.
    assert await worker.stdout.read() == b""

    successor = bubblewrap.host()
    exits = successor.exits()
    assert [(c.id, c.is_running) for c in await successor.list()] == [(id, True)]
    assert (await probe.python(spec.folders.sockets, "print('alive')")).out == "alive\n"
    with pytest.raises((json.JSONDecodeError, ConnectionError)):
        await probe.python(spec.folders.sockets, "import os; os._exit(7)")

    async with asyncio.timeout(20):
        ended = await anext(exits)
    assert (ended.id, ended.exit_code, ended.is_out_of_memory) == (id, 7, False)


async def test_what_a_worker_left_half_started_is_ended_and_forgotten(
    bubblewrap: BubblewrapMachine,
) -> None:
    """A worker killed between bwrap's start and its note leaves a sandbox nobody knows."""
    first, spec = bubblewrap.host(), bubblewrap.spec()
    started = await first.start(spec)
    await first.aclose()
    noted = bubblewrap.data_dir / "b" / started.id / "process.json"
    init = json.loads(noted.read_text())["init"]["pid"]
    noted.unlink()

    assert await bubblewrap.host().list() == []

    assert _is_dead(init)


async def test_a_sandbox_that_cannot_be_put_on_record_does_not_run(
    bubblewrap: BubblewrapMachine,
) -> None:
    """On a full disk. To bwrap, the end of the pipe it waits at was as good as a word."""
    host, spec = bubblewrap.host(), bubblewrap.spec()
    assert isinstance(host, BubblewrapHost)

    def no_room(id: ContainerId, processes: Processes) -> None:
        # Nor was there any for what bwrap had to say.
        os.truncate(bubblewrap.data_dir / "b" / id / "status", 0)
        raise OSError(errno.ENOSPC, "No space left on device")

    host._records.note = no_room  # type: ignore[method-assign]
    with pytest.raises(EngineFailed, match="No space left"):
        await host.start(spec)

    assert _in_sandboxes_of(spec) == []
    assert await bubblewrap.host().list() == []


async def test_what_bwrap_says_has_its_room_before_the_disk_is_full(
    bubblewrap: BubblewrapMachine,
) -> None:
    """By it a sandbox is found whose worker died before it could note anything."""
    host, spec = bubblewrap.host(), bubblewrap.spec()
    started = await host.start(spec)

    assert (bubblewrap.data_dir / "b" / started.id / "status").stat().st_size == 4096


async def test_a_start_that_hangs_keeps_no_other_conversation_from_starting(
    bubblewrap: BubblewrapMachine,
) -> None:
    """Its worker is stopped in the middle of it, and holds the lock."""
    host, stuck, other = bubblewrap.host(), bubblewrap.spec(), bubblewrap.spec()
    assert isinstance(host, BubblewrapHost)
    with host._records.lock(stuck.conversation, 1):
        await host.start(other)
        assert [c.conversation for c in await host.list()] == [other.conversation]
        with pytest.raises(StartUnderWay), host._records.lock(stuck.conversation, 0):
            pass

    await host.start(stuck)


def _in_sandboxes_of(spec: ContainerSpec) -> list[int]:
    """Processes that have its workspace mounted."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"/w/{spec.conversation} /workspace" in (process / "mountinfo").read_text():
                found.append(int(process.name))
    return found


async def test_a_kill_of_bwrap_alone_ends_neither_the_sandbox_nor_its_watch(
    bubblewrap: BubblewrapMachine,
) -> None:
    host, spec = bubblewrap.host(), bubblewrap.spec()
    exits = host.exits()
    started = await host.start(spec)
    noted = json.loads((bubblewrap.data_dir / "b" / started.id / "process.json").read_text())

    os.kill(noted["bwrap"]["pid"], signal.SIGKILL)

    assert (await probe.python(spec.folders.sockets, "print('alive')")).out == "alive\n"
    await host.stop(started.id)
    async with asyncio.timeout(20):
        assert (await anext(exits)).id == started.id


async def test_a_start_that_fails_tells_bwraps_own_words(bubblewrap: BubblewrapMachine) -> None:
    host, spec = bubblewrap.host(), bubblewrap.spec()
    spec.folders.workspace.rmdir()

    with pytest.raises(EngineFailed, match=r"bwrap: .*No such file"):
        await host.start(spec)

    assert await host.list() == []


def _is_dead(pid: int) -> bool:
    """Gone, or waiting for the machine's init to notice."""
    return Process.of(pid) is None
