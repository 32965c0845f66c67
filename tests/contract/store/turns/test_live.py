"""The fast path: frames arrive joined and in order; what may be missing is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from infra.runtime.identity import new_turn_id
from infra.store.keys import Keys
from infra.store.turns.live import LivePublisher, LiveSubscriber
from infra.store.turns.mailbox import LiveTurn
from infra.wire.frames import Frame
from infra.wire.ids import Fence, ReplicaId, TurnId
from tests.contract.store.listening import Listener
from tests.contract.store.running import running, until
from tests.contract.store.scene import REPLICA, Scene, scene_at, text_events
from tests.fakes.redis_server import real_redis

OTHER_REPLICA = ReplicaId("api-2")


def frames_of(turn: TurnId, first: int, count: int) -> list[Frame]:
    return [Frame(turn, Fence(7), n, b'{"type":"text"}') for n in range(first, first + count)]


@asynccontextmanager
async def live(
    scene: Scene, subscriber: LiveSubscriber | None = None
) -> AsyncIterator[tuple[LivePublisher, LiveSubscriber]]:
    """A publisher and a subscriber that stands."""
    publisher = LivePublisher(scene.redis, scene.keys)
    subscriber = subscriber or LiveSubscriber(scene.redis, scene.keys, REPLICA)
    async with running(publisher.run(), subscriber.run()):
        async with asyncio.timeout(10):
            await subscriber.subscribed.wait()
        yield publisher, subscriber


async def collect(mailbox: LiveTurn, count: int) -> list[Frame]:
    got: list[Frame] = []
    async with asyncio.timeout(20):
        while len(got) < count:
            assert await mailbox.wait(15)
            got += mailbox.take()
    return got


@pytest.mark.redis
async def test_frames_leave_before_what_was_asked_for_with_them(real: Redis, keys: Keys) -> None:
    """A reader waits for them, and nobody for the log."""
    scene = Scene(real, keys)
    lease, turn = await scene.begin()
    async with live(scene) as (publisher, _), real.monitor() as monitor:
        [frame] = frames_of(turn, 1, 1)
        async with asyncio.TaskGroup() as group:
            publisher.publish(REPLICA, frame.encode())
            group.create_task(scene.store.log.append(lease, turn, text_events(1, 1)))
        asked: list[str] = []
        async with asyncio.timeout(10):
            while len(asked) < 2:
                told = (await monitor.next_command())["command"]
                if told.startswith(("PUBLISH", "EVALSHA")) and str(turn) in told:
                    asked.append(told.split()[0])
    assert asked == ["PUBLISH", "EVALSHA"]


async def test_frames_arrive_in_order_at_the_turn_they_belong_to(scene: Scene) -> None:
    one, two = new_turn_id(), new_turn_id()
    async with live(scene) as (publisher, subscriber):
        with subscriber.attach(one) as first, subscriber.attach(two) as second:
            for frame in [*frames_of(one, 1, 50), *frames_of(two, 1, 20), *frames_of(one, 51, 50)]:
                publisher.publish(REPLICA, frame.encode())

            assert await collect(first, 100) == frames_of(one, 1, 100)
            assert await collect(second, 20) == frames_of(two, 1, 20)
            assert not first.overflowed


async def test_several_relays_of_a_turn_hear_the_same(scene: Scene) -> None:
    turn = new_turn_id()
    async with live(scene) as (publisher, subscriber):
        with subscriber.attach(turn) as one, subscriber.attach(turn) as two:
            publisher.publish(REPLICA, frames_of(turn, 1, 1)[0].encode())
            assert await collect(one, 1) == await collect(two, 1)


async def test_what_is_ready_together_goes_out_as_one_message(scene: Scene) -> None:
    turn = new_turn_id()
    publisher = LivePublisher(scene.redis, scene.keys)
    for frame in frames_of(turn, 1, 30):
        publisher.publish(REPLICA, frame.encode())

    channel = scene.keys.replica_channel(REPLICA)
    async with Listener(scene, channel) as listener, running(publisher.run()):
        message = await listener.next()

    assert message.count(b"\n") == 29


async def test_a_replica_hears_only_its_own_turns(scene: Scene) -> None:
    turn = new_turn_id()
    async with live(scene) as (publisher, subscriber):
        with subscriber.attach(turn) as mailbox:
            publisher.publish(OTHER_REPLICA, frames_of(turn, 1, 1)[0].encode())
            publisher.publish(REPLICA, frames_of(turn, 2, 1)[0].encode())
            assert await collect(mailbox, 1) == frames_of(turn, 2, 1)


@pytest.mark.parametrize("bad", [b"gibberish", b"", b"turn 7 1", b"\xff 7 1 {}", b"turn x 1 {}"])
async def test_one_bad_frame_costs_its_neighbours_in_the_message_nothing(
    scene: Scene, bad: bytes
) -> None:
    """A frame without an event made an API replica drop the frames of all tenants beside it."""
    turn = new_turn_id()
    good = [frame.encode() for frame in frames_of(turn, 1, 2)]
    async with live(scene) as (_, subscriber):
        with subscriber.attach(turn) as mailbox:
            message = b"\n".join((good[0], bad, good[1]))
            await scene.redis.publish(scene.keys.replica_channel(REPLICA), message)
            assert await collect(mailbox, 2) == frames_of(turn, 1, 2)
            assert not mailbox.overflowed


async def test_a_bad_frame_sends_its_own_turn_to_the_log(scene: Scene) -> None:
    turn, other = new_turn_id(), new_turn_id()
    async with live(scene) as (_, subscriber):
        with subscriber.attach(turn) as mailbox, subscriber.attach(other) as neighbour:
            await scene.redis.publish(
                scene.keys.replica_channel(REPLICA), b"%b seven 1 {}" % turn.encode()
            )
            assert await mailbox.wait(10)
            assert mailbox.overflowed
            assert mailbox.take() == []
            assert not neighbour.overflowed


@pytest.mark.redis
async def test_a_restart_of_redis_wakes_every_relay_and_frames_flow_again(keys: Keys) -> None:
    turn = new_turn_id()
    async with (
        real_redis() as server,
        scene_at(server.url, keys) as scene,
        live(scene) as (publisher, subscriber),
    ):
        with subscriber.attach(turn) as mailbox:
            mailbox.take()
            await server.restart()
            publisher.publish(REPLICA, frames_of(turn, 1, 1)[0].encode())

            await until(lambda: mailbox.overflowed)
            mailbox.take()
            await _says_something(publisher, mailbox, turn)


@pytest.mark.redis
async def test_a_black_holed_subscription_is_noticed_and_renewed(keys: Keys) -> None:
    turn = new_turn_id()
    async with real_redis() as server, scene_at(server.url, keys) as scene:
        watchful = LiveSubscriber(
            scene.redis, scene.keys, REPLICA, ping_after_s=0.2, answer_within_s=0.3
        )
        async with live(scene, watchful) as (publisher, subscriber):
            with subscriber.attach(turn) as mailbox:
                mailbox.take()
                server.freeze()
                await asyncio.sleep(1.5)  # Only silence can tell: there is no signal to wait for.
                server.thaw()

                await until(lambda: mailbox.overflowed)
                mailbox.take()
                await _says_something(publisher, mailbox, turn)


@pytest.mark.redis
async def test_a_cut_subscription_is_renewed_at_once(real_scene: Scene) -> None:
    turn = new_turn_id()
    async with live(real_scene) as (publisher, subscriber):
        with subscriber.attach(turn) as mailbox:
            mailbox.take()
            await real_scene.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]

            await until(lambda: mailbox.overflowed)
            mailbox.take()
            await _says_something(publisher, mailbox, turn)


@pytest.mark.redis
async def test_a_silent_subscription_that_answers_is_kept(real_scene: Scene) -> None:
    watchful = LiveSubscriber(
        real_scene.redis, real_scene.keys, REPLICA, ping_after_s=0.05, answer_within_s=5
    )
    async with live(real_scene, watchful) as (_, subscriber):
        with subscriber.attach(new_turn_id()) as mailbox:
            assert not await mailbox.wait(0.6)
            assert not mailbox.overflowed


async def _says_something(publisher: LivePublisher, mailbox: LiveTurn, turn: TurnId) -> None:
    """Frames flow again. The first ones may still fall into the fault."""
    n = 0

    async def heard() -> bool:
        nonlocal n
        n += 1
        publisher.publish(REPLICA, frames_of(turn, n, 1)[0].encode())
        return await mailbox.wait(0.1) and bool(mailbox.take())

    await until(heard)
