"""`agcluster sessions`, `turns` and `workers`, as processes, on a real redis-server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from api.chat.answer.vocabulary import completion_id
from infra.cli.ops.turns import PAGE_ENTRIES
from infra.cli.up.programs import python_command
from infra.store.keys import Keys
from infra.store.placement.workers import WorkerRecord
from infra.wire.control import CancelTurn, DrainWorker
from infra.wire.errors import ErrorCode
from infra.wire.events import (
    Event,
    Notice,
    TextDelta,
    TurnEnded,
    TurnError,
    Usage,
    encode_event,
)
from infra.wire.gateway import ModelUsage, TurnMeter
from infra.wire.ids import ConversationKey, HostId, TurnId, WorkerId
from infra.wire.states import ConversationState, Hibernation, TurnState, WorkerState
from tests.contract.store.scene import (
    DONE,
    HOST_A,
    HOST_B,
    OTHER_C,
    OTHER_TENANT,
    TENANT,
    W1,
    W2,
    W3,
    C,
    Scene,
    scene_at,
)
from tests.contract.store.scene import text_events as some_text
from tests.fakes.redis_server import RealRedis
from tests.parts import need

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def server() -> Iterator[RealRedis]:
    need("redis")
    server = RealRedis()
    try:
        server.launch()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def scene(server: RealRedis) -> AsyncIterator[Scene]:
    async with scene_at(server.url, Keys()) as scene:
        await scene.redis.flushall()
        yield scene


class Command:
    """Runs `agcluster` against the server."""

    def __init__(self, url: str | None, data_dir: Path) -> None:
        self._environ = {"PATH": os.environ["PATH"], "AGCLUSTER_DATA_DIR": str(data_dir)}
        if url:
            self._environ["AGCLUSTER_REDIS_URL"] = url

    async def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run,
            [*python_command("infra.cli.main"), *arguments],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    async def told(self, *arguments: str) -> str:
        done = await self(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def agcluster(server: RealRedis, tmp_path: Path) -> Command:
    return Command(server.url, tmp_path)


async def ended(scene: Scene) -> TurnId:
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, some_text(1, 2))
    await scene.store.turns.finish(lease, turn, 3, DONE, idle_timeout_s=60)
    return turn


async def test_sessions_of_all_tenants_are_listed(scene: Scene, agcluster: Command) -> None:
    await ended(scene)
    await scene.offer(scene.new_turn(OTHER_C, tenant=OTHER_TENANT, label="their-thread"))
    everything = await agcluster.told("sessions", "list")
    theirs = json.loads(
        await agcluster.told("sessions", "list", "--tenant", OTHER_TENANT, "--json")
    )
    warm = await agcluster.told("sessions", "list", "--state", "warm")
    assert C in everything
    assert OTHER_C in everything
    assert [record["label"] for record in theirs] == ["their-thread"]
    assert C in warm
    assert OTHER_C not in warm


async def test_a_hibernated_session_is_told_from_one_that_was_idle_for_long(
    scene: Scene, agcluster: Command
) -> None:
    lease, turn = await scene.begin()
    await scene.store.turns.finish(lease, turn, 1, DONE, idle_timeout_s=60)
    assert await scene.store.conversations.hibernate(lease, Hibernation.MEMORY)
    await scene.store.leases.release(lease, ConversationState.COLD)

    listed = (await agcluster.told("sessions", "list")).splitlines()[1]
    assert listed.split()[:3] == [C, "cold", "memory"]
    shown = await agcluster.told("sessions", "show", C)
    assert "hibernated_at" in shown


async def test_session_is_shown_by_key_and_by_label(scene: Scene, agcluster: Command) -> None:
    turn = await ended(scene)
    await scene.offer(scene.new_turn(OTHER_C, label="their-thread"))
    shown = await agcluster.told("sessions", "show", C)
    assert turn in shown
    assert "warm" in shown
    assert OTHER_C in await agcluster.told("sessions", "show", "their-thread")
    unknown = await agcluster("sessions", "show", "nobody")
    assert unknown.returncode == 1
    assert "nobody" in unknown.stderr


async def test_label_of_two_is_refused(scene: Scene, agcluster: Command) -> None:
    for c in (C, OTHER_C):
        await scene.offer(scene.new_turn(c, label="same"))
    refused = await agcluster("sessions", "delete", "same")
    assert refused.returncode == 1
    assert C in refused.stderr
    assert OTHER_C in refused.stderr


async def test_stopped_session_is_due_and_stays(scene: Scene, agcluster: Command) -> None:
    await ended(scene)
    assert "stopping" in await agcluster.told("sessions", "stop", C)
    assert [c for c, _, _ in await scene.store.conversations.due()] == [C]
    assert await scene.store.conversations.get(C) is not None


async def test_deleted_session_is_gone(scene: Scene, agcluster: Command) -> None:
    turn = await ended(scene)
    assert "host-a removes its files" in await agcluster.told("sessions", "delete", C)
    assert await scene.store.conversations.get(C) is None
    assert await scene.store.turns.get(turn) is None
    assert (await agcluster("sessions", "delete", C)).returncode == 1


async def test_busy_session_is_stopped_before_it_is_deleted(
    scene: Scene, agcluster: Command
) -> None:
    lease, turn = await scene.begin()

    async def obey() -> None:
        async with asyncio.timeout(20):
            while (await scene.store.leases.renew([lease])).cancelled == {}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        end = DONE.model_copy(update={"state": TurnState.CANCELLED})
        await scene.store.turns.finish(lease, turn, 1, end, idle_timeout_s=60)

    async with asyncio.TaskGroup() as group:
        group.create_task(obey())
        told = await agcluster.told("sessions", "delete", C)
    assert "deleted" in told


async def test_turn_is_shown_without_its_key(scene: Scene, agcluster: Command) -> None:
    _, turn = await scene.begin()
    shown = await agcluster.told("turns", "show", turn)
    as_json = await agcluster.told("turns", "show", turn, "--json")
    assert "running" in shown
    assert json.loads(as_json)["has_key"] is True
    assert "sealed" not in (shown + as_json).replace("v1.sealed", "sealed!")
    assert TENANT in shown


async def test_events_of_a_turn_are_printed(scene: Scene, agcluster: Command) -> None:
    turn = await ended(scene)
    whole = await agcluster.told("turns", "tail", turn)
    rest = await agcluster.told("turns", "tail", turn, "--after", "1", "--json")
    # A run of text is one line, with the number of its last event.
    assert [line.split()[:2] for line in whole.splitlines()] == [["2", "text"], ["3", "end"]]
    assert [line.split(" ", 1)[0] for line in rest.splitlines()] == ["2", "3"]


async def test_a_log_longer_than_a_page_is_printed_whole(scene: Scene, agcluster: Command) -> None:
    """Most of its entries are runs of events."""
    lease, turn = await scene.begin()
    count = 0
    for i in range(PAGE_ENTRIES + 5):
        await scene.store.log.append(lease, turn, some_text(count + 1, 1 + i % 3))
        count += 1 + i % 3
    printed = await agcluster.told("turns", "tail", turn, "--no-follow", "--json")
    assert [int(line.split()[0]) for line in printed.splitlines()] == [*range(1, count + 1)]
    joined = await agcluster.told("turns", "tail", turn, "--no-follow")
    said = " ".join(line.split(maxsplit=2)[2] for line in joined.splitlines())
    assert [int(number) for number in re.findall(r"word (\d+)", said)] == [*range(1, count + 1)]


async def test_turns_of_the_last_time_are_listed_with_how_they_ended(
    scene: Scene, agcluster: Command
) -> None:
    lease, bad = await scene.begin()
    running = await agcluster.told("turns", "list", "--failed", "--json")
    assert json.loads(running) == []
    failed = TurnEnded(
        state=TurnState.FAILED, error=TurnError(code=ErrorCode.AGENT_FAILED, message="x")
    )
    await scene.store.turns.finish(lease, bad, 1, failed, idle_timeout_s=60)
    listed = await agcluster.told("turns", "list", "--last", "1h")
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [[bad, "failed"]]
    only = await agcluster.told("turns", "list", "--failed", "--json")
    assert [record["turn"] for record in json.loads(only)] == [bad]
    assert "sealed_key" not in only


async def test_what_an_agent_said_does_nothing_to_a_terminal(
    scene: Scene, agcluster: Command
) -> None:
    """Escapes, overrides of direction and forged lines were printed as they were; an event of an
    unknown or a broken kind was a traceback."""
    lease, turn = await scene.begin()
    bad = "\x1b]0;title\x07 \x9b2J \u202e \r\n     9 text  forged"
    said: list[Event] = [TextDelta(text=bad), Notice(text=bad)]
    failed = TurnEnded(
        state=TurnState.FAILED, error=TurnError(code=ErrorCode.AGENT_FAILED, message=bad)
    )
    events = [(n, encode_event(event)) for n, event in enumerate(said, 1)]
    events += [(3, b'{"type":"\xc2\x9b2J"}'), (4, "{\u202e\x1b".encode())]
    await scene.store.log.append(lease, turn, events)
    await scene.store.turns.finish(lease, turn, 5, failed, idle_timeout_s=60)

    for form in ((), ("--json",)):
        printed = await agcluster.told("turns", "tail", turn, *form)
        lines = printed.splitlines()
        assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5"]
        assert not set(printed) & set("\x1b\x07\x9b\u202e\r")
        if form:
            assert json.loads(lines[0][2:]) == {"type": "text", "text": bad}


async def test_tail_follows_a_turn_until_it_ends(scene: Scene, agcluster: Command) -> None:
    lease, turn = await scene.begin()
    await scene.store.log.append(lease, turn, some_text(1, 1))
    assert "word 1" in await agcluster.told("turns", "tail", turn, "--no-follow")
    async with asyncio.TaskGroup() as group:
        tail = group.create_task(agcluster.told("turns", "tail", turn))
        await scene.store.log.append(lease, turn, some_text(2, 1))
        await scene.store.turns.finish(lease, turn, 3, DONE, idle_timeout_s=60)
    assert tail.result().splitlines()[-1].split() == ["3", "end", "done"]


async def test_waiting_turn_is_cancelled_at_once(scene: Scene, agcluster: Command) -> None:
    turn = await scene.submit()
    as_its_client_knows_it = completion_id(turn)
    told = await agcluster.told("turns", "cancel", as_its_client_knows_it)
    assert told.split() == [turn, "was", "cancelled"]
    assert await scene.turn_state(turn) is TurnState.CANCELLED
    unknown = await agcluster("turns", "cancel", "turn_gone")
    assert unknown.returncode == 1
    assert "no turn turn_gone" in unknown.stderr


async def test_command_finds_the_redis_of_agcluster_up(tmp_path: Path) -> None:
    lost = await Command(None, tmp_path)("sessions", "list")
    assert lost.returncode == 2
    assert "AGCLUSTER_REDIS_URL" in lost.stderr


async def test_waiting_turns_are_listed_as_they_will_be_started(
    scene: Scene, agcluster: Command
) -> None:
    for n in range(2):
        await scene.submit(ConversationKey(f"{n:024x}"))
    later = (await scene.offer(scene.new_turn(OTHER_C, tenant=OTHER_TENANT))).turn

    listed = json.loads(await agcluster.told("turns", "waiting", "--json"))

    assert [turn["position"] for turn in listed] == [0, 1, 2]
    assert listed[1]["turn"] == later
    assert later in await agcluster.told("turns", "waiting")
    shown = json.loads(await agcluster.told("turns", "show", "--json", later))
    assert shown["position"] == 1


async def test_usage_is_told_by_tenant_day_and_model(agcluster: Command, scene: Scene) -> None:
    lease, turn = await scene.begin()
    used = ModelUsage(calls=2, usage=Usage(input_tokens=5, output_tokens=7))
    meter = TurnMeter(calls=2, models={"claude-x": used}, instance="g")
    await scene.store.usage.book(lease, turn, meter)
    listed = json.loads(await agcluster.told("usage", "list", "--json"))
    wanted = {"calls": 2, "input": 5, "output": 7, "cache_creation": 0, "cache_read": 0}
    assert listed[TENANT] == {
        **wanted,
        "spent": 12,
        "models": {"claude-x": {**wanted, "spent": 12}},
    }
    shown = await agcluster.told("usage", "show", TENANT, "--days", "1")
    assert shown.count("12") >= 3
    assert "claude-x" in shown
    assert "claude-x" in await agcluster.told("sessions", "show", C)
    assert "'output_tokens': 7" in await agcluster.told("turns", "show", turn)


# Workers


def living(worker: WorkerId, host: HostId) -> WorkerRecord:
    return WorkerRecord(
        worker=worker,
        host=host,
        pid=7,
        version="1",
        slots=4,
        used=1,
        state=WorkerState.READY,
        started_ms=1_700_000_000_000,
    )


async def test_living_workers_are_listed_by_host(scene: Scene, agcluster: Command) -> None:
    for worker, host in ((W3, HOST_B), (W1, HOST_A)):
        await scene.store.workers.beat(living(worker, host))
    lines = (await agcluster.told("workers", "list")).splitlines()
    assert [line.split()[:5] for line in lines[1:]] == [
        [W1, HOST_A, "ready", "1", "4"],
        [W3, HOST_B, "ready", "1", "4"],
    ]


async def test_a_host_is_drained_worker_by_worker(scene: Scene, agcluster: Command) -> None:
    told: list[WorkerId] = []

    async def listen(worker: WorkerId, listening: asyncio.Event) -> None:
        await scene.store.workers.beat(living(worker, HOST_A))
        async for message in scene.store.workers.control(worker):
            if isinstance(message, CancelTurn):
                listening.set()
            elif isinstance(message, DrainWorker):
                told.append(worker)
                await scene.store.workers.leave(worker)
                return

    await scene.store.workers.beat(living(W3, HOST_B))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for worker in (W1, W2):
            listening = asyncio.Event()
            group.create_task(listen(worker, listening))
            hello = CancelTurn(turn=TurnId("t"), conversation=C, reason="hello").encode()
            while not listening.is_set():
                await scene.redis.publish(scene.keys.control_channel(worker), hello)
                await asyncio.sleep(0.02)
        said = await agcluster.told("workers", "drain", HOST_A)
    assert sorted(told) == [W1, W2]
    assert said.splitlines()[-1] == "left"
    assert [one.worker for one in await scene.store.workers.alive()] == [W3]


async def test_a_worker_that_does_not_live_is_not_drained(agcluster: Command) -> None:
    done = await agcluster("workers", "drain", "nobody")
    assert done.returncode == 1
    assert "no worker or host nobody lives" in done.stderr
