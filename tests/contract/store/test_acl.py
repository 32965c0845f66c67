"""infra/images/users.acl allows each program all it does, and nobody anything dangerous."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from infra.store.history import TurnBase
from infra.store.keys import Keys
from infra.wire.errors import StoreUnavailable
from infra.wire.ids import ReplicaId, TurnId
from infra.wire.link import BaseKind, TranscriptPart
from infra.wire.states import ConversationState
from tests.contract.store.running import running, until
from tests.contract.store.scene import (
    DONE,
    HOST_A,
    REPLICA,
    TENANT,
    W1,
    C,
    Scene,
    scene_at,
    text_events,
)
from tests.contract.store.test_workers import a_worker
from tests.fakes.redis_server import RealRedis

pytestmark = pytest.mark.redis

USERS = Path(__file__).resolve().parents[3] / "infra" / "images" / "users.acl"
PASSWORDS = {
    "REDIS_API_PASSWORD": "api-password",
    "REDIS_WORKER_PASSWORD": "worker-password",
    "REDIS_OPS_PASSWORD": "ops-password",
}


@pytest.fixture
async def guarded() -> AsyncIterator[RealRedis]:
    """A server that knows the users of the file and no other."""
    server = RealRedis(options=("--aclfile", "users.acl"))
    filled = re.sub(r"\$\{(\w+)\}", lambda found: PASSWORDS[found[1]], USERS.read_text())
    (server.folder / "users.acl").write_text(filled)
    try:
        await server.start()
        yield server
    finally:
        server.remove()


def as_user(server: RealRedis, user: str) -> AbstractAsyncContextManager[Scene]:
    return scene_at(f"{server.url}?username={user}&password={user}-password", Keys())


async def test_api_and_worker_can_do_all_they_have_to(guarded: RealRedis) -> None:
    async with as_user(guarded, "api") as api, as_user(guarded, "worker") as worker:
        await _live_a_little(api, worker)


async def _live_a_little(api: Scene, worker: Scene) -> None:
    claimed: list[TurnId] = []

    async def claim(turn: TurnId) -> None:
        claimed.append(turn)

    subscriber = api.store.subscriber(REPLICA)
    publisher = worker.store.publisher()
    placement = worker.store.placement(W1, claim=claim, has_room=lambda: True)
    async with running(subscriber.run(), publisher.run(), placement.run()):
        await api.store.check()
        await worker.store.check()
        await worker.store.workers.beat(a_worker(W1))
        assert len(await api.store.workers.alive()) == 1
        await api.store.key_verdicts.put(TENANT, True, ttl_s=60)
        assert not (await api.store.rates.hit("requests", TENANT, per_min=1)).is_exceeded
        assert (await api.store.rates.look("requests", TENANT, per_min=1)).is_exceeded
        readers = api.store.readers
        await readers.join(TurnId("t"), here=ReplicaId("a"), first_at=REPLICA, ttl_s=60)
        await readers.leave(TurnId("t"), here=ReplicaId("a"), ttl_s=60)

        turn = await api.submit()
        await api.store.queue.enqueue(turn, None)
        await until(lambda: claimed == [turn])
        lease = await worker.acquire()
        await worker.claim(lease)
        await worker.warm_up(lease)
        base = TurnBase(kind=BaseKind.CONTINUE, digest="0" * 16)
        await worker.store.turns.start(lease, turn, base=base, is_resending=True)
        part = TranscriptPart(entries=({"uuid": "u-1"},))
        assert await worker.store.transcripts.append(lease, "session-1", part)
        assert await worker.store.transcripts.load(C, "session-1")
        await subscriber.subscribed.wait()
        with subscriber.attach(turn) as mailbox:
            publisher.publish(REPLICA, b"%b 1 1 {}" % turn.encode())
            assert await mailbox.wait(10)
        await worker.store.log.append(lease, turn, text_events(1, 1))
        await api.store.turns.cancel(turn, tenant=TENANT, reason="client gone")
        await worker.store.leases.renew([lease])
        assert (await api.store.log.read(turn, after=0)).events
        await worker.store.turns.finish(lease, turn, 2, DONE, idle_timeout_s=0)
        expired = await api.submit()
        await worker.store.turns.unclaimed(older_than_ms=0)
        await api.store.turns.expire(expired, reason="Too late.")
        await worker.redis.zadd(worker.keys.idle(), {C: 1})
        assert await worker.store.conversations.due()
        assert await worker.store.conversations.reap(C, W1)
        await worker.store.leases.release(lease, ConversationState.COLD)
        assert (await api.store.conversations.list(TENANT)).conversations
        assert [found async for found in api.store.conversations.scan()]
        assert await api.store.conversations.turns(C)
        await api.store.conversations.stop(C, tenant=TENANT, reason="stop")
        await api.store.conversations.delete(C, tenant=TENANT, reason="delete")
        assert await worker.store.conversations.wipes(HOST_A) == {C}
        assert await worker.store.conversations.is_wipe_due(C, HOST_A)
        await worker.store.conversations.wiped(C, HOST_A)
        await worker.store.workers.leave(W1)
        assert (await api.store.turns.counts())["open"] == 0


@pytest.mark.parametrize("user", ["api", "worker", "ops"])
@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "CONFIG GET *",
        "KEYS *",
        "MONITOR",
        "SHUTDOWN",
        "SAVE",
        "ACL LIST",
        "CLIENT LIST",
        "SCRIPT FLUSH",
        "SET other:key 1",
        "PUBLISH other:channel x",
    ],
)
async def test_no_user_can_do_anything_dangerous(
    guarded: RealRedis, user: str, command: str
) -> None:
    async with as_user(guarded, user) as scene:
        with pytest.raises(NoPermissionError):
            await scene.redis.execute_command(*command.split())  # type: ignore[no-untyped-call]


async def test_an_operator_reads_everything_and_changes_little(guarded: RealRedis) -> None:
    async with as_user(guarded, "worker") as worker, as_user(guarded, "ops") as ops:
        await _look_and_touch(worker, ops)


async def _look_and_touch(worker: Scene, ops: Scene) -> None:
    turn = await worker.submit()

    assert (await ops.store.turns.get(turn)) is not None
    assert (await ops.store.conversations.get(C)) is not None
    assert [key async for key in ops.redis.scan_iter("agc:conv:*")]
    await ops.redis.info()
    # The recipes of docs/operations.md.
    await ops.redis.zadd(ops.keys.idle(), {C: 1}, xx=True, ch=True)
    await ops.redis.hset(ops.keys.turn(turn), "cancel", "by hand")  # type: ignore[misc]
    await ops.redis.publish(ops.keys.control_channel(W1), '{"type":"drain"}')
    await ops.redis.pubsub_channels("agc:api:*")
    await ops.redis.delete(ops.keys.key_verdict(TENANT))
    for refused in (
        ops.redis.delete(ops.keys.turn(turn)),
        ops.redis.set(ops.keys.lease(C), "me"),
        ops.redis.eval("return 1", 0),
    ):
        with pytest.raises(NoPermissionError):
            await refused  # type: ignore[misc]


async def test_nobody_gets_in_without_a_password(guarded: RealRedis) -> None:
    async with scene_at(guarded.url, Keys()) as nobody:
        with pytest.raises(StoreUnavailable, match="Authentication"):
            await nobody.store.ping()
