"""infra/images/users.acl allows each program all it does, and nobody anything dangerous."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from infra.runtime.identity import new_file_id, new_part_id, new_upload_id
from infra.store.files.files import FileFacts, FileQuota
from infra.store.files.uploads import NewUpload
from infra.store.keys import Keys
from infra.store.turns.history import TurnBase
from infra.store.turns.readers import TurnLeft
from infra.wire.errors import StoreUnavailable
from infra.wire.ids import ReaderId, TurnId
from infra.wire.link import BaseKind
from infra.wire.states import ConversationState
from tests.contract.store.placement.test_workers import a_worker
from tests.contract.store.running import running, until
from tests.contract.store.scene import (
    DONE,
    HOST_A,
    OTHER_C,
    REPLICA,
    TENANT,
    W1,
    C,
    Scene,
    scene_at,
    text_events,
)
from tests.contract.store.whole_turn import MARKER, SESSION, all_of_redis, begun_turn, end_turn
from tests.fakes.guarded_redis import GuardedRedis, guarded_redis
from tests.fakes.raw_parts import raw_part

pytestmark = pytest.mark.redis


@pytest.fixture
async def guarded() -> AsyncIterator[GuardedRedis]:
    async with guarded_redis() as server:
        yield server


def as_user(server: GuardedRedis, user: str) -> AbstractAsyncContextManager[Scene]:
    return scene_at(server.as_user(user), Keys())


async def test_api_and_worker_can_do_all_they_have_to(guarded: GuardedRedis) -> None:
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
        await _read_and_leave(api)
        await _keep_files(api, worker)

        turn = await api.submit()
        await api.store.queue.enqueue(turn, None)
        await until(lambda: claimed == [turn])
        lease = await worker.acquire()
        await worker.claim(lease)
        await worker.warm_up(lease)
        base = TurnBase(kind=BaseKind.CONTINUE, digest="0" * 16)
        await worker.store.turns.start(lease, turn, base=base, is_resending=True)
        part = raw_part(entries=({"uuid": "u-1"},))
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
        await api.store.turns.expire(expired)
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
        assert (await api.counts())["open"] == 0


async def _read_and_leave(api: Scene) -> None:
    readers = api.store.readers
    first, second = ReaderId("api-1 1"), ReaderId("api-2 1")
    new = replace(api.new_turn(OTHER_C, idempotency="d"), reader=first)
    await api.offer(new)
    again = replace(api.new_turn(OTHER_C, idempotency="d"), reader=second)
    turn = (await api.offer(again)).turn
    await readers.withdraw(again.request.turn, second, tenant=TENANT, idempotency=again.idempotency)
    assert await readers.leave(turn, first, tenant=TENANT, hung_up=False) is TurnLeft.STAYS
    await api.store.turns.cancel(turn, tenant=TENANT, reason="over")


async def _keep_files(api: Scene, worker: Scene) -> None:
    files, uploads, store = api.store.files, api.store.uploads, "0" * 16
    facts, quota = FileFacts("a", "", "user_data", "d" * 64, 1, None), FileQuota(9, 9)
    file, part, upload = new_file_id(1), new_part_id(1), new_upload_id()
    for one in (file, part):
        assert await files.begin(one, TENANT, store=store, announced=0, quota=quota) == "ok"
        assert await files.grow(one, count=1, quota=quota)
    assert await files.keep(file, TENANT, facts, store=store)
    assert (await files.page(TENANT, purpose=None, after=None, limit=1, is_rising=True))[0]
    await uploads.begin(upload, TENANT, NewUpload("a", 1, "user_data", "", None))
    assert isinstance(await uploads.keep_part(part, upload, count=1), int)
    assert await uploads.get(upload)
    assert await uploads.parts(upload)
    assert await uploads.cancel(upload)
    assert await files.drop(file, TENANT)
    await worker.redis.zadd(worker.keys.files_due(store), {file: 1})
    assert await worker.store.files.due(store, limit=9) == (file,)
    await worker.store.files.forget(file, store=store)
    assert await worker.store.files.on_record([file, part]) == {part}
    assert await worker.store.files.see_store(store) == ()
    assert await worker.store.files.stores_in_use() == [store]
    assert await worker.store.files.may_tidy(store, every_s=1)


DANGEROUS = """
FLUSHALL / FLUSHDB / SWAPDB 0 1 / CONFIG GET * / CONFIG SET maxmemory 1 / KEYS * / MONITOR
DEBUG SLEEP 0 / SHUTDOWN / SAVE / BGSAVE / BGREWRITEAOF / LASTSAVE / REPLICAOF NO ONE / SYNC
PSYNC ? -1 / FAILOVER / MODULE LIST / ACL LIST / ACL GETUSER api / ACL LOG
SLOWLOG GET / LATENCY LATEST / MEMORY STATS
CLIENT LIST / CLIENT KILL TYPE normal / CLIENT PAUSE 1 / CLIENT NO-EVICT on / SCRIPT FLUSH
SCRIPT KILL / FUNCTION LIST / FUNCTION FLUSH / FUNCTION DUMP / FCALL x 0 / CLUSTER NODES
MIGRATE 127.0.0.1 1 agc:idle 0 1 / RESTORE agc:x 0 x / SORT agc:idle / SET other:key 1
GET other:key / PUBLISH other:channel x / SUBSCRIBE other:channel / DUMP other:key
OBJECT FREQ other:key
"""


@pytest.mark.parametrize("user", ["api", "worker", "ops"])
async def test_no_user_can_do_anything_dangerous(guarded: GuardedRedis, user: str) -> None:
    async with as_user(guarded, user) as scene:
        done = [
            command
            for command in re.split(r" / |\n", DANGEROUS.strip())
            if not await _is_refused(scene, command)
        ]
    assert done == []


async def _is_refused(scene: Scene, command: str) -> bool:
    try:
        await scene.redis.execute_command(*command.split())  # type: ignore[no-untyped-call]
    except NoPermissionError:
        return True
    except ResponseError:
        return False  # It got as far as being carried out.
    return False


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("api", "GET arq:in-progress:x"),
        ("api", "ZADD arq:queue 1 x"),
        ("worker", "SCRIPT LOAD return"),
    ],
)
async def test_api_and_worker_keep_to_their_own(
    guarded: GuardedRedis, user: str, command: str
) -> None:
    async with as_user(guarded, user) as scene:
        assert await _is_refused(scene, command)


async def test_an_operator_looks_and_touches_nothing(guarded: GuardedRedis) -> None:
    async with as_user(guarded, "worker") as worker, as_user(guarded, "ops") as ops:
        turn = await worker.submit()
        assert (await ops.store.turns.get(turn)) is not None
        assert (await ops.store.conversations.get(C)) is not None
        assert [key async for key in ops.redis.scan_iter("agc:conv:*")]
        await ops.redis.info()
        await ops.redis.pubsub_channels("agc:api:*")

        keys = ops.keys
        for command in (
            f"DEL {keys.turn(turn)}",
            f"HSET {keys.turn(turn)} cancel now",
            f"SET {keys.lease(C)} me",
            f"EXPIRE {keys.conversation(C)} 1",
            f"ZADD {keys.idle()} XX 1 {C}",
            f"PUBLISH {keys.control_channel(W1)} drain",
            "EVAL return 0",
        ):
            assert await _is_refused(ops, command), command


async def test_an_operator_does_not_read_what_users_and_agents_say(guarded: GuardedRedis) -> None:
    async with as_user(guarded, "worker") as worker, as_user(guarded, "ops") as ops:
        lease, turn = await begun_turn(worker)
        begun = await _saying(ops, worker)
        await end_turn(worker, lease, turn)
        ended = await _saying(ops, worker)

    keys = Keys()
    assert begun == {
        *(keys.turn_request(turn), keys.turn_heads(turn), keys.turn_events(turn)),
        keys.transcript(C, SESSION),
    }
    assert ended == {
        *(keys.turn_events(turn), keys.transcript(C, SESSION)),
        *(keys.accepted(C), keys.unheard(C)),
    }


async def _saying(ops: Scene, worker: Scene) -> set[str]:
    """The keys that hold what was said, none of them an operator's to read."""
    told = await all_of_redis(ops.redis, ops.keys)
    assert {ops.keys.conversation(C), ops.keys.transcripts(C)} < set(told)
    assert not [pair for pair in told.items() if MARKER in f"{pair}"]
    held = await all_of_redis(worker.redis, worker.keys)
    said = {key for key, value in held.items() if MARKER.encode() in value}
    for key in said:
        assert await _is_refused(ops, f"DUMP {key}"), key
    return said


@pytest.mark.parametrize("user", ["", "?password=x", "?username=default&password=x"])
async def test_nobody_gets_in_as_the_default_user(guarded: GuardedRedis, user: str) -> None:
    """It has every right, for Redis replays its file as this user, but there is no way in."""
    async with scene_at(guarded.url + user, Keys()) as nobody:
        with pytest.raises(StoreUnavailable, match=r"Authentication|WRONGPASS|invalid username"):
            await nobody.store.ping()
