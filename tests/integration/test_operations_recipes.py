"""Every command of operations.md, run by redis-cli against a real server after real turns.

The cluster's past is made through the store: one turn ended, one begun, one waiting. The heading of
each recipe must be known here with a word its output has to hold, so a new one arrives with a test.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from infra.runtime.identity import (
    conversation_key,
    new_file_id,
    new_replica_id,
    new_turn_id,
    tenant_id,
)
from infra.store.access.key_verdicts import KeyVerdicts
from infra.store.access.limits import SubmitLimits
from infra.store.access.usage import UsageStore
from infra.store.conversations.conversations import ConversationStore
from infra.store.conversations.leases import Lease, LeaseStore
from infra.store.conversations.transcripts import TranscriptStore
from infra.store.files.files import FileQuota, FileRecords
from infra.store.keys import Keys
from infra.store.placement.queue import PlacementQueue
from infra.store.placement.workers import WorkerRecord, WorkerRegistry
from infra.store.server.connection import connect
from infra.store.turns.history import TurnBase
from infra.store.turns.log import TurnLog
from infra.store.turns.turns import NewTurn, TurnStore
from infra.wire.control import decode_control
from infra.wire.events import Event, TextDelta, TurnEnded, TurnStarted, Usage, encode_event
from infra.wire.gateway import ModelUsage, TurnMeter
from infra.wire.ids import ConversationKey, HostId, TenantId, TurnId, WorkerId
from infra.wire.link import BaseKind
from infra.wire.states import ConversationState, TurnState, WorkerState
from infra.wire.turns import TextBlock, TurnRequest
from tests.fakes.guarded_redis import filled_users
from tests.fakes.raw_parts import raw_part
from tests.parts import need, redis_server
from tests.recipes import Recipe, recipes

pytestmark = pytest.mark.redis

SECRET = b"a secret of at least thirty-two characters"
HOST = HostId("host-a")
WORKER = WorkerId("host-a-0011aabb")

EXPECTED = {
    "Which conversations are known": "agc:conv:{C}",
    "What is known about one": "my thread",
    "Who owns it, and for how long still": "{WORKER}",
    "Which turns wait in it": "{WAITING}",
    "Which will be stopped next for being idle": "{IDLE}",
    "Stop an idle one now": "1",
    "Which prompts are in its agent's memory": "at-the-end",
    "How large its transcript is": "session-1",
    "Which conversations a tenant has": "{C}",
    "Which deleted ones still have files on a host": "{GONE}",
    "List and show them with `agcluster`": "{TURN}",
    "Stop one with `agcluster`": "stopping {IDLE} (was warm)",
    "Delete one with `agcluster`": "deleted {IDLE}; {HOST} removes its files",
    "Which file stores are in use": "0123456789abcdef",
    "What a tenant keeps in the file store": "5000",
    "Which turns have not ended": "{TURN}",
    "What became of one": "running",
    "Its last words": "Hello",
    "A tenant's turns that have not ended": "{TURN}",
    "Look at one with `agcluster`": '"Hello"',
    "Cancel one with `agcluster`": "{TURN} is running",
    "Cancel one by hand": "0",
    "What a tenant has used": "claude-test:input_tokens",
    "What a conversation has used": "spent_tokens",
    "Look at usage with `agcluster`": "{TENANT}",
    "Which workers live": "{WORKER}",
    "What one is doing": "ready",
    "What runs on a host": "{C}",
    "Drain one": "0",
    "List workers with `agcluster`": "{WORKER}",
    "Drain one with `agcluster`": "{WORKER} does not listen",
    "Which turns wait for a worker": "{QUEUED}",
    "Whose turn it is": "{TENANT}",
    "What a tenant has waiting": "{COLD}",
    "List them with `agcluster`": "{QUEUED}",
    "List them with `agcluster turns`": "{QUEUED}",
    "How many hints are queued": "1",
    "Which API replicas listen": "",
    "What a tenant holds in Redis": "total",
    "What the upstream said of a tenant's key": "ok",
    "Check a key again": "1",
    "Nothing may be evicted": "maxmemory_policy:noeviction",
    "What it is busy with": "cmdstat_evalsha",
}


OPEN_TO_OPS = {
    "List and show them with `agcluster`",
    "List them with `agcluster turns`",
    "Look at usage with `agcluster`",
}
"""What `agcluster` does for the user who only looks."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A redis-server of its own with the users that are shipped; where it listens."""
    need("redis")
    if not shutil.which("redis-cli"):
        pytest.skip("no redis-cli on PATH")
    program = redis_server()
    assert program
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = tmp_path_factory.mktemp("redis")
    (folder / "users.acl").write_text(filled_users())
    process = subprocess.Popen(
        [
            *(program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
            *("--dir", str(folder), "--aclfile", "users.acl"),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _as(user: str, server: str) -> str:
    return f"redis://{user}:{user}-password@{server}"


@pytest.fixture
async def past(server: str) -> AsyncIterator[dict[str, str]]:
    """One turn ended, one running, one waiting, a worker alive; the ids as shell variables."""
    redis = connect(_as("watcher", server), timeout_s=5, name="test")
    urls = {"REDIS_URL": _as("ops", server), "API_REDIS_URL": _as("api", server)}
    try:
        await redis.flushall()
        yield {**urls, **await _live_a_little(redis)}
    finally:
        await redis.aclose()


async def _live_a_little(redis: Redis) -> dict[str, str]:
    keys = Keys()
    tenant = tenant_id(SECRET, "sk-ant-somebody")
    busy = conversation_key(SECRET, tenant, "my thread")
    idle = conversation_key(SECRET, tenant, "my old thread")
    turns, leases = TurnStore(redis, keys), LeaseStore(redis, keys)
    await _ended_turn(redis, keys, await leases.acquire(idle, WORKER, HOST), tenant)
    gone = conversation_key(SECRET, tenant, "a deleted thread")
    await _ended_turn(redis, keys, await leases.acquire(gone, WORKER, HOST), tenant)
    await ConversationStore(redis, keys).delete(gone, tenant=tenant, reason="deleted")
    lease = await leases.acquire(busy, WORKER, HOST)
    running = await _begun_turn(redis, keys, lease, tenant)
    waiting = await _submitted(turns, tenant, busy)
    cold = conversation_key(SECRET, tenant, "a new thread")
    queued = await _submitted(turns, tenant, cold)
    await PlacementQueue(redis, keys).enqueue(waiting, None)
    await WorkerRegistry(redis, keys).beat(
        WorkerRecord(
            WORKER, HOST, 4711, "0.1.0", slots=8, used=2, state=WorkerState.READY, started_ms=1
        )
    )
    await WorkerRegistry(redis, keys).take_inventory(HOST, {"4f2a9c1b7d33": busy})
    await KeyVerdicts(redis, keys).put(tenant, True, ttl_s=300)
    await _upload(FileRecords(redis, keys), tenant)
    return {
        "C": busy,
        "IDLE": idle,
        "GONE": gone,
        "TURN": running,
        "WAITING": waiting,
        "COLD": cold,
        "QUEUED": queued,
        "TENANT": tenant,
        "WORKER": WORKER,
        "HOST": HOST,
    }


async def _submitted(turns: TurnStore, tenant: TenantId, c: ConversationKey) -> TurnId:
    request = TurnRequest(
        turn=new_turn_id(),
        conversation=c,
        tenant=tenant,
        model="claude-sonnet-4-5-20250929",
        prompt=(TextBlock(text="Say hello."),),
        deadline_s=60,
        idle_timeout_s=60,
    )
    new = NewTurn(request, new_replica_id(HOST), "v1.sealed", 2**42, label="my thread")
    return (
        await turns.submit(new, limits=SubmitLimits(turns_waiting_max=8), retention_s=3600)
    ).turn


async def _upload(files: FileRecords, tenant: TenantId) -> None:
    store, quota = "0123456789abcdef", FileQuota(0, 0)
    await files.see_store(store)
    await files.begin(new_file_id(1), tenant, store=store, announced=5000, quota=quota)


async def _begun_turn(redis: Redis, keys: Keys, lease: Lease, tenant: TenantId) -> TurnId:
    turns, conversations = TurnStore(redis, keys), ConversationStore(redis, keys)
    await _submitted(turns, tenant, lease.conversation)
    claimed = await turns.claim(lease)
    assert claimed is not None
    turn = claimed.record.turn
    base = TurnBase(kind=BaseKind.CONTINUE, digest="0123456789abcdef")
    await turns.start(lease, turn, base=base)
    for state in (ConversationState.STARTING, ConversationState.BUSY):
        await conversations.update(lease, state, container="c0ffee")
    events: list[Event] = [TurnStarted(sdk_session="session-1", model="m"), TextDelta(text="Hello")]
    numbered = [(n, encode_event(event)) for n, event in enumerate(events, start=1)]
    await TurnLog(redis, keys).append(lease, turn, numbered)
    used = ModelUsage(calls=1, usage=Usage(input_tokens=5, output_tokens=7))
    meter = TurnMeter(calls=1, models={"claude-test": used}, instance="gateway-1")
    await UsageStore(redis, keys).book(lease, turn, meter)
    return turn


async def _ended_turn(redis: Redis, keys: Keys, lease: Lease, tenant: TenantId) -> None:
    turn = await _begun_turn(redis, keys, lease, tenant)
    entry = raw_part(entries=({"uuid": "at-the-end", "type": "assistant"},))
    await TranscriptStore(redis, keys).append(lease, "session-1", entry)
    end = TurnEnded(state=TurnState.DONE, checkpoint="at-the-end")
    assert not await TurnStore(redis, keys).finish(lease, turn, 3, end, idle_timeout_s=60)


def _run(commands: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-ec", commands],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AGCLUSTER_REDIS_URL": variables["API_REDIS_URL"],
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _named(title: str) -> Recipe:
    return next(recipe for recipe in recipes() if recipe.title == title)


@asynccontextmanager
async def _store(past: dict[str, str]) -> AsyncIterator[Redis]:
    redis = connect(past["API_REDIS_URL"], timeout_s=5, name="test")
    try:
        yield redis
    finally:
        await redis.aclose()


def test_every_recipe_is_known_here() -> None:
    assert {recipe.title for recipe in recipes()} == set(EXPECTED)


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.title)
async def test_recipe_tells_what_it_says(recipe: Recipe, past: dict[str, str]) -> None:
    done = await asyncio.to_thread(_run, recipe.commands, past)
    assert done.returncode == 0, done.stderr
    assert not re.search("ERR|NOPERM", done.stdout)
    assert EXPECTED[recipe.title].format(**past) in done.stdout


@pytest.mark.parametrize(
    "recipe",
    [recipe for recipe in recipes() if recipe.commands.startswith("agcluster")],
    ids=lambda recipe: recipe.title,
)
async def test_the_user_ops_is_refused_in_words(recipe: Recipe, past: dict[str, str]) -> None:
    """It got a line of Redis' own about a script, or none at all."""
    as_ops = past | {"API_REDIS_URL": past["REDIS_URL"]}
    done = await asyncio.to_thread(_run, recipe.commands, as_ops)
    told = "the Redis user of AGCLUSTER_REDIS_URL may not do this"
    assert (done.returncode == 0) == (recipe.title in OPEN_TO_OPS), done.stdout + done.stderr
    assert (told in done.stderr) == (recipe.title not in OPEN_TO_OPS), done.stderr
    assert "Traceback" not in done.stderr


async def test_an_idle_conversation_that_is_stopped_by_hand_is_due(past: dict[str, str]) -> None:
    await asyncio.to_thread(_run, _named("Stop an idle one now").commands, past)
    async with _store(past) as redis:
        due = await ConversationStore(redis, Keys()).due()
    assert [c for c, _, _ in due] == [past["IDLE"]]


async def test_a_turn_cancelled_by_hand_is_told_at_the_next_renewal(past: dict[str, str]) -> None:
    await asyncio.to_thread(_run, _named("Cancel one by hand").commands, past)
    busy = ConversationKey(past["C"])
    async with _store(past) as redis:
        leases = LeaseStore(redis, Keys())
        renewal = await leases.renew([await leases.acquire(busy, WORKER, HOST)])
    assert renewal.cancelled == {busy: (past["TURN"], "stopped by the operator")}


async def test_messages_of_recipes_are_understood_by_workers(past: dict[str, str]) -> None:
    told = []
    for title in ("Cancel one by hand", "Drain one"):
        commands = _named(title).commands.replace("redis-cli", "echo")
        printed = (await asyncio.to_thread(_run, commands, past)).stdout
        told += [json[json.index("{") :] for json in printed.splitlines() if "{" in json]
    assert [decode_control(raw.encode()).type for raw in told] == ["cancel", "drain"]


async def test_no_recipe_ever_shows_a_sealed_key_of_an_ended_turn(past: dict[str, str]) -> None:
    show_all = (
        'for key in $(redis-cli -u "$REDIS_URL" --scan --pattern "agc:turn:$ID"); do '
        'redis-cli -u "$REDIS_URL" HMGET "$key" state key_sealed | tr "\\n" " "; echo; done'
    )
    past["ID"] = "turn_" + "?" * 32
    shown = (await asyncio.to_thread(_run, show_all, past)).stdout.splitlines()
    assert sorted(line.split() for line in shown) == [
        ["done"],
        ["queued", "v1.sealed"],
        ["queued", "v1.sealed"],
        ["running", "v1.sealed"],
    ]
