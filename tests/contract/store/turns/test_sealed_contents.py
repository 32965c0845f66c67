"""With a content secret Redis holds nothing of what was asked and answered."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from infra.runtime.contents import SealedContents
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.server.channel import listen
from infra.wire.errors import ContentNotOpened
from infra.wire.frames import Frame
from infra.wire.history.decision import GO_ON_DIGEST, digest
from infra.wire.ids import Fence, TurnId
from tests.contract.store.scene import REPLICA, TENANT, C, Scene
from tests.contract.store.whole_turn import (
    IDEMPOTENCY,
    MARKER,
    SAID,
    SESSION,
    STARTED,
    WORD,
    all_of_redis,
    begun_turn,
    end_turn,
    whole_turn,
)


@pytest.fixture
def sealed(scene: Scene) -> Scene:
    scene.store = sealed_with(scene.redis, scene.keys, b"s" * 32)
    return scene


def sealed_with(redis: Redis, keys: Keys, *secrets: bytes) -> Store:
    return store_on(redis, keys, contents=SealedContents(*secrets))


async def test_nothing_of_a_turn_can_be_read_in_redis(sealed: Scene) -> None:
    lease, turn = await begun_turn(sealed)
    begun = await all_of_redis(sealed.redis, sealed.keys)
    await end_turn(sealed, lease, turn)
    ended = await all_of_redis(sealed.redis, sealed.keys)
    assert sealed.keys.turn_heads(turn) in begun
    assert {sealed.keys.accepted(C), sealed.keys.unheard(C)} < set(ended)
    for held in (begun, ended):
        for secret in (MARKER, digest(SAID), IDEMPOTENCY):
            assert not [pair for pair in held.items() if secret in f"{pair}"]


async def test_those_with_the_secret_read_all_of_it(sealed: Scene) -> None:
    turn = await whole_turn(sealed)
    page = await sealed.store.log.read(turn, after=0)
    assert [n for n, _ in page.events] == [1, 2, 3]
    assert [payload for _, payload in page.events][:2] == [STARTED, WORD]
    newest = await sealed.store.log.newest(turn)
    assert newest is not None
    assert MARKER.encode() in newest
    stored = await sealed.store.transcripts.load(C, SESSION)
    assert stored is not None
    assert MARKER.encode() in stored.encode()
    found = await sealed.store.chains.take(TENANT, digest(SAID) * 2, earlier=None, retention_s=60)
    assert found == C
    await sealed.submit()
    claimed = await sealed.claim(await sealed.acquire())
    assert [entry.heads for entry in claimed.accepted] == [(MARKER,), (MARKER, f"Bash{MARKER}")]
    assert [message.prompt for message in claimed.unheard] == [SAID]


async def test_a_continued_answer_is_still_known_for_one(sealed: Scene) -> None:
    before = digest(SAID)
    await sealed.offer(sealed.new_turn(sent=(before, GO_ON_DIGEST)))
    claimed = await sealed.claim(await sealed.acquire())
    blinded, go_on = claimed.request.sent
    assert go_on == GO_ON_DIGEST
    assert blinded != before


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
    assert page.events[1] == (2, WORD)


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
