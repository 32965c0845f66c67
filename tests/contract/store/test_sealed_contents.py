"""With a content secret Redis holds nothing of what was asked and answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from infra.runtime.contents import SealedContents
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.server.channel import listen
from infra.wire.errors import ContentNotOpened
from infra.wire.events import TextDelta, TurnEnded, encode_event
from infra.wire.frames import Frame
from infra.wire.history import digest
from infra.wire.ids import Fence, TurnId
from infra.wire.states import TurnState
from infra.wire.turns import TextBlock
from tests.contract.store.scene import REPLICA, TENANT, C, Scene
from tests.fakes.raw_parts import raw_part

MARKER = "heliotrope"
SAID = (TextBlock(text=f"My password is {MARKER}."),)
WORD = encode_event(TextDelta(text=MARKER))
SESSION = "5f3c"


@pytest.fixture
def sealed(scene: Scene) -> Scene:
    scene.store = sealed_with(scene.redis, scene.keys, b"s" * 32)
    return scene


def sealed_with(redis: Redis, keys: Keys, *secrets: bytes) -> Store:
    return store_on(redis, keys, contents=SealedContents(*secrets))


async def all_of_redis(redis: Redis, keys: Keys) -> AsyncIterator[bytes]:
    """Every name and value of this deployment, whatever its type."""
    async for name in redis.scan_iter(f"{keys.prefix}:*"):
        yield name
        match (await redis.type(name)).decode():
            case "string":
                yield await redis.get(name)
            case "hash":
                for pair in (await redis.hgetall(name)).items():  # type: ignore[misc]
                    yield b" ".join(pair)
            case "list":
                for item in await redis.lrange(name, 0, -1):  # type: ignore[misc]
                    yield item
            case "stream":
                for _, entry in await redis.xrange(name):
                    yield b" ".join(entry.values())
            case "set":
                for item in await redis.smembers(name):  # type: ignore[misc]
                    yield item
            case "zset":
                for item in await redis.zrange(name, 0, -1):
                    yield item
            case other:
                raise AssertionError(f"a type this test does not search: {other}")


async def whole_turn(scene: Scene) -> TurnId:
    new = scene.new_turn(idempotency="0" * 64)
    request = new.request.model_copy(update={"prompt": SAID, "sent": (digest(SAID),)})
    turn = (await scene.offer(replace(new, request=request))).turn
    lease = await scene.acquire()
    claimed = await scene.claim(lease)
    assert claimed.request.prompt == SAID
    await scene.warm_up(lease)
    await scene.store.turns.start(lease, turn)
    await scene.store.log.append(lease, turn, [(1, WORD), (2, WORD)])
    part = raw_part(entries=({"uuid": "u1", "message": MARKER},))
    await scene.store.transcripts.append(lease, SESSION, part)
    await scene.store.chains.put(TENANT, digest(SAID) * 2, C, retention_s=60)
    # Somebody else's number: the script has to log the end behind what is there.
    end = TurnEnded(state=TurnState.DONE)
    await scene.store.turns.finish(lease, turn, 2, end, idle_timeout_s=60)
    return turn


async def test_nothing_of_a_turn_can_be_read_in_redis(sealed: Scene) -> None:
    await whole_turn(sealed)
    held = [item async for item in all_of_redis(sealed.redis, sealed.keys)]
    assert len(held) > 20
    for secret in (MARKER, digest(SAID), "0" * 64):
        assert not [item for item in held if secret.encode() in item]


async def test_those_with_the_secret_read_all_of_it(sealed: Scene) -> None:
    turn = await whole_turn(sealed)
    page = await sealed.store.log.read(turn, after=0)
    assert [n for n, _ in page.events] == [1, 2, 3]
    assert [payload for _, payload in page.events][:2] == [WORD, WORD]
    assert await sealed.store.log.newest(turn) == encode_event(TurnEnded(state=TurnState.DONE))
    stored = await sealed.store.transcripts.load(C, SESSION)
    assert stored is not None
    assert MARKER.encode() in stored.encode()
    found = await sealed.store.chains.take(TENANT, digest(SAID) * 2, earlier=None, retention_s=60)
    assert found == C


async def test_another_secret_fails_visibly_and_starts_the_memory_anew(sealed: Scene) -> None:
    turn = await whole_turn(sealed)
    other = sealed_with(sealed.redis, sealed.keys, b"o" * 32)
    with pytest.raises(ContentNotOpened):
        await other.log.read(turn, after=0)
    assert await other.transcripts.load(C, SESSION) is None


async def test_a_renewed_secret_goes_on_where_the_old_one_was(sealed: Scene) -> None:
    turn = await whole_turn(sealed)
    renewed = sealed_with(sealed.redis, sealed.keys, b"n" * 32, b"s" * 32)
    page = await renewed.log.read(turn, after=0)
    assert page.events[0] == (1, WORD)


@pytest.mark.redis
async def test_live_frames_are_sealed_too(real_scene: Scene) -> None:
    store = sealed_with(real_scene.redis, real_scene.keys, b"s" * 32)
    publisher, subscriber = store.publisher(), store.subscriber(REPLICA)
    frame = Frame(TurnId("turn-1"), Fence(7), 1, WORD)
    channel = real_scene.keys.replica_channel(REPLICA)
    listening = listen(real_scene.redis, channel, purpose="test")
    async with asyncio.timeout(20), aclosing(listening) as overheard, asyncio.TaskGroup() as group:
        assert await anext(overheard) is None
        loops = [group.create_task(publisher.run()), group.create_task(subscriber.run())]
        with subscriber.attach(frame.turn) as mailbox:
            await subscriber.subscribed.wait()
            publisher.publish(REPLICA, frame.encode())
            assert MARKER.encode() not in (await anext(overheard) or b"")
            while not (frames := mailbox.take()):
                await mailbox.wait(5)
            assert frames == [frame]
        for loop in loops:
            loop.cancel()
