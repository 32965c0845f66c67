"""Mailboxes and the publisher's queue: bounded, and honest about what they drop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import uvloop
from redis.asyncio import Redis

from infra.store.keys import Keys
from infra.store.turns.live import LivePublisher, LiveSubscriber
from infra.store.turns.mailbox import LiveTurn
from infra.wire.frames import Frame
from infra.wire.ids import Fence, ReplicaId, TurnId
from tests.fakes.fake_redis import fake_redis

TURN = TurnId("turn_1")
REPLICA = ReplicaId("api-1")


def frame(n: int, size: int = 10) -> Frame:
    return Frame(TURN, Fence(1), n, b"x" * size)


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    async with fake_redis() as client:
        yield client


async def test_a_mailbox_keeps_what_fits_and_says_that_more_came() -> None:
    mailbox = LiveTurn(frames_max=3, bytes_max=1000)
    for n in range(1, 6):
        mailbox.put(frame(n))

    assert (mailbox.overflowed, [f.n for f in mailbox.take()]) == (True, [1, 2, 3])
    assert not mailbox.overflowed
    mailbox.put(frame(6))
    assert [f.n for f in mailbox.take()] == [6]


async def test_a_mailbox_is_bounded_in_bytes() -> None:
    mailbox = LiveTurn(frames_max=100, bytes_max=25)
    for n in range(1, 4):
        mailbox.put(frame(n, size=10))

    assert mailbox.overflowed
    assert len(mailbox.take()) == 2


async def test_a_relay_waits_for_a_frame_no_longer_than_it_wants_to() -> None:
    mailbox = LiveTurn(frames_max=3, bytes_max=1000)

    assert not await mailbox.wait(0.01)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(mailbox.wait(10))
        await asyncio.sleep(0)
        mailbox.put(frame(1))
    assert waiting.result()
    assert await mailbox.wait(0)


async def test_an_overflow_wakes_a_relay_that_waits() -> None:
    mailbox = LiveTurn(frames_max=3, bytes_max=1000)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(mailbox.wait(10))
        await asyncio.sleep(0)
        mailbox.overflow()
    assert waiting.result()
    assert mailbox.take() == []


async def test_a_sink_is_offered_what_arrives_while_the_relay_waits() -> None:
    mailbox = LiveTurn(frames_max=3, bytes_max=1000)
    taken: list[list[int]] = []

    def sink(frames: Sequence[Frame]) -> bool:
        taken.append([f.n for f in frames])
        return frames[0].n != 6

    mailbox.sink = sink
    mailbox.deliver([frame(1)])
    assert taken == [], "nobody waits"
    assert [f.n for f in mailbox.take()] == [1]
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(mailbox.wait(10))
        await asyncio.sleep(0)
        mailbox.deliver([frame(n) for n in range(2, 6)])
        assert taken == [[2, 3, 4], [5]], "never more at once than a mailbox holds"
        assert not waiting.done()
        mailbox.deliver([frame(6), frame(7)])
        mailbox.deliver([frame(8)])
        assert taken[2:] == [[6, 7]], "once it is woken, everything else is its own affair"
    assert [f.n for f in mailbox.take()] == [6, 7, 8]


async def test_each_relay_of_a_turn_gets_the_frames_of_a_message_at_once(redis: Redis) -> None:
    subscriber = LiveSubscriber(redis, Keys(), REPLICA)
    other = TurnId("turn_2")
    lines = [frame(1).encode(), Frame(other, Fence(1), 1, b"y").encode(), frame(2).encode()]
    heard: list[list[int]] = []

    def sink(frames: Sequence[Frame]) -> bool:
        heard.append([f.n for f in frames])
        return True

    with subscriber.attach(TURN) as one, subscriber.attach(TURN) as two:
        one.sink = two.sink = sink
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(mailbox.wait(10)) for mailbox in (one, two)]
            await asyncio.sleep(0)
            subscriber._deliver(b"\n".join(lines))
            assert heard == [[1, 2], [1, 2]]
            for waiting in waits:
                waiting.cancel()


async def test_a_detached_mailbox_is_forgotten(redis: Redis) -> None:
    subscriber = LiveSubscriber(redis, Keys(), REPLICA)
    with subscriber.attach(TURN), subscriber.attach(TURN):
        pass
    assert not subscriber._mailboxes


async def test_a_publisher_nobody_flushes_drops_and_counts(redis: Redis) -> None:
    publisher = LivePublisher(redis, Keys(), pending_max_bytes=25)
    for _ in range(4):
        publisher.publish(REPLICA, b"x" * 10)

    assert publisher.dropped == 2


def test_a_wait_of_no_time_leaves_the_next_one_whole() -> None:
    """The API runs on uvloop, whose timers that are due at once are of another kind."""
    mailbox = LiveTurn(frames_max=3, bytes_max=1000)

    async def wait_twice() -> tuple[bool, bool]:
        first = await mailbox.wait(0.0004)
        mailbox.take()
        return first, await mailbox.wait(0.01)

    async def speak_at_once() -> tuple[bool, bool]:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(wait_twice())
            await asyncio.sleep(0)
            mailbox.put(frame(1))
        mailbox.close()
        return waiting.result()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(speak_at_once()) == (True, False)
