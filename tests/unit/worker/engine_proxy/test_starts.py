"""No container runs on unverified: not with a busy worker, nor with an engine in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from infra.wire.ids import ConversationKey, Fence, WorkerId
from tests.fakes.held_connections import held_connections
from tests.unit.worker.engine_proxy.conftest import CONVERSATION, Line
from tests.unit.worker.engine_proxy.test_engine_proxy import claimed_by, described
from worker.engine_proxy.main import CONNECTIONS_MAX, serve
from worker.engine_proxy.mounts import held_folders
from worker.engine_proxy.server import CALLS_MAX, STREAMS_MAX
from worker.engine_proxy.starts import STARTS_MAX
from worker.hosts.docker.host import host_labels
from worker.hosts.folders.folders import Folders
from worker.hosts.host import SOCKETS_AT, WORKSPACE_AT, SessionFolders
from worker.hosts.pool.records import SpareRecord, SpareRecords

ID = "a" * 64


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - the fake engine tells nobody
            await asyncio.sleep(0.01)


def _runs(line: Line, id: str = ID) -> None:
    line.engine.containers[id] = described(line, id) | {"State": {"Running": True, "Pid": 4711}}


async def _start(line: Line, id: str = ID) -> tuple[int, str]:
    return await line.ask("POST", f"/v1.41/containers/{id}/start")


def _removals(line: Line) -> int:
    return sum(method == "DELETE" for method, _, _ in line.engine.calls)


def _events(line: Line) -> str:
    labels = [
        f"{name}={value}" for name, value in host_labels("cluster-1", line.rules.host).items()
    ]
    asked = {"type": ["container"], "event": ["start", "die"], "label": labels}
    return f"/v1.41/events?filters={json.dumps(asked)}".replace(" ", "+")


async def test_streams_of_events_are_bounded(line: Line) -> None:
    """They end with the worker only."""
    line.engine.may_end_events.clear()
    async with asyncio.TaskGroup() as group:
        for _ in range(STREAMS_MAX):
            group.create_task(line.ask("GET", _events(line)))
        await _until(lambda: line.engine.streams == STREAMS_MAX)

        status, said = await line.ask("GET", _events(line))

        assert (status, "too many streams" in said) == (403, True)
        assert (await line.ask("GET", "/v1.41/info"))[0] == 200
        line.engine.may_end_events.set()
    assert (await line.ask("GET", _events(line)))[0] == 200


async def test_connections_of_a_worker_are_bounded(line: Line) -> None:
    """Each costs the proxy a descriptor, and one that has none left compares nothing."""
    stop, listen, is_ready = asyncio.Event(), line.folder / "bounded", asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(line.rules, listen, stop, is_ready=is_ready))
        await is_ready.wait()
        async with held_connections(listen, CONNECTIONS_MAX + 20) as held:
            await held.until_closed(20)
            assert await _pinged(listen) == b""
            assert held.closed == 20

        # They went, so there is room.
        async with asyncio.timeout(10):
            while not (told := await _pinged(listen)):
                pass
        assert told.startswith(b"HTTP/1.1 200")
        stop.set()


async def _pinged(listen: Path) -> bytes:
    """The answer to a call; nothing where the connection is closed."""
    reader, writer = await asyncio.open_unix_connection(listen)
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET /_ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        told = await reader.read()
        writer.close()
        await writer.wait_closed()
        return told
    return b""


async def test_no_other_call_takes_the_connection_of_a_comparison_or_of_a_removal(
    line: Line,
) -> None:
    """One pool for all let a worker fill it while a start was under way: the look and the removal
    then waited until they gave up."""
    line.mounted[WORKSPACE_AT] = Path("/")
    line.engine.may_start.clear()
    line.engine.may_ping.clear()
    _runs(line)
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(_start(line))
        await line.engine.start_asked.wait()
        for _ in range(2 * CALLS_MAX):
            group.create_task(line.ask("GET", "/_ping"))
        await _until(lambda: line.engine.pings == CALLS_MAX)
        line.engine.may_start.set()

        async with asyncio.timeout(5):
            status, _ = await starting

        assert status == 403
        assert line.engine.containers == {}
        line.engine.may_ping.set()


async def test_an_engine_that_tells_nothing_of_a_container_has_it_removed(line: Line) -> None:
    """Anything but "there is none" counted as "does not run"."""
    _runs(line)
    line.engine.failing["inspect"] = (2, 1)

    status, said = await _start(line)

    assert (status, "does not tell" in said) == (403, True)
    assert line.engine.containers == {}


async def test_a_removal_that_fails_is_tried_until_the_container_is_gone(line: Line) -> None:
    line.mounted[WORKSPACE_AT] = Path("/")
    line.engine.failing["DELETE"] = (1, 2)
    _runs(line)

    status, _ = await _start(line)

    assert status == 403
    assert line.engine.containers == {}
    assert _removals(line) == 3


async def test_containers_that_resist_their_removal_keep_others_from_starting(line: Line) -> None:
    line.mounted[WORKSPACE_AT] = Path("/")
    line.engine.failing["DELETE"] = (1, 10**6)
    ids = [f"{i:064x}" for i in range(STARTS_MAX)]
    for id in (*ids, ID):
        _runs(line, id)
    async with asyncio.TaskGroup() as group:
        starts = [group.create_task(_start(line, id)) for id in ids]
        await _until(lambda: _removals(line) >= STARTS_MAX)

        assert "being started or removed" in (await _start(line, ids[0]))[1]
        assert "too many starts" in (await _start(line))[1]

        line.engine.failing.clear()
        assert {(await start)[0] for start in starts} == {403}
    assert set(line.engine.containers) == {ID}


@pytest.mark.parametrize("answers", [200, 500])
async def test_a_proxy_that_begins_looks_at_what_one_before_it_may_have_started(
    line: Line, answers: int
) -> None:
    right, wrong = "1" * 64, "2" * 64
    _runs(line, right)
    _runs(line, wrong)
    line.engine.containers[wrong]["Config"]["Labels"]["agcluster.conv"] = "d" * 24
    if answers != 200:
        line.engine.failing |= {"inspect": (1, 1), "DELETE": (1, 1)}
    proxy = line.successor()
    await proxy.setup()
    async with asyncio.TaskGroup() as group:
        verifying = group.create_task(proxy.run())
        await _until(lambda: wrong not in line.engine.containers)
        await proxy.has_looked.wait()
        verifying.cancel()
    await proxy.aclose()

    assert set(line.engine.containers) == {right}


async def test_the_program_looks_at_what_runs_as_soon_as_it_serves(line: Line) -> None:
    _runs(line)
    line.engine.containers[ID]["Config"]["Labels"]["agcluster.conv"] = "d" * 24
    stop, listen = asyncio.Event(), line.folder / "again"
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(line.rules, listen, stop))
        await _until(lambda: not line.engine.containers)
        stop.set()

    assert not listen.exists()


@pytest.mark.parametrize("claimant", ["../../x", 5], ids=str)
async def test_a_proxy_begins_whatever_a_worker_wrote_of_its_spares(
    line: Line, claimant: object
) -> None:
    _runs(line)
    claimed_by(line, claimant)
    proxy = line.successor()
    await proxy.setup()
    async with asyncio.TaskGroup() as group:
        verifying = group.create_task(proxy.run())
        async with asyncio.timeout(10):
            await proxy.has_looked.wait()
        await _until(lambda: not line.engine.containers)
        verifying.cancel()
    await proxy.aclose()


@pytest.mark.parametrize("runtime", ["runc", "runsc"])
async def test_a_spare_that_is_claimed_while_a_proxy_begins_is_left_alone(
    line: Line, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    """Its folders get other names, one after the other, between the look for them and their
    opening."""
    _runs(line)
    folders, claimant = Folders(line.rules.data_dir), ConversationKey("d" * 24)
    records = SpareRecords(line.rules.data_dir)
    claimed = SpareRecord(CONVERSATION, WorkerId("w"), claimant, Fence(1))
    first, later = folders.of(CONVERSATION), folders.of(claimant)
    line.mounted |= {SOCKETS_AT: later.sockets, WORKSPACE_AT: later.workspace}

    def begin() -> None:
        records.make(claimed)
        first.workspace.rename(later.workspace)

    def finish() -> None:
        first.sockets.rename(later.sockets)

    steps = [begin, finish]

    def in_the_middle(folders: SessionFolders) -> AbstractContextManager[Mapping[str, int]]:
        if steps:
            steps.pop(0)()
        return held_folders(folders)

    monkeypatch.setattr("worker.engine_proxy.rules.held_folders", in_the_middle)
    options = replace(line.rules.options, runtime=runtime)
    line = replace(line, rules=replace(line.rules, options=options))
    proxy = line.successor()
    await proxy.setup()
    async with asyncio.TaskGroup() as group:
        verifying = group.create_task(proxy.run())
        await proxy.has_looked.wait()
        verifying.cancel()
    await proxy.aclose()

    assert set(line.engine.containers) == {ID}
    assert not steps
