"""What others want of an actor reaches it, whatever it is doing."""

from __future__ import annotations

import asyncio

from infra.wire.ids import TurnId
from tests.fakes.manual_clock import settle
from worker.conversations.inbox import Inbox
from worker.conversations.phases import OF_THE_IDLE, Wish


async def test_it_begins_with_a_look_for_a_turn() -> None:
    assert Inbox().wishes == {Wish.TURN}


async def test_what_is_seen_to_is_wished_no_more_until_it_is_wished_again() -> None:
    inbox = Inbox()
    inbox.take(Wish.TURN)
    inbox.take(Wish.REAP)
    assert not inbox.wishes
    inbox.put(Wish.TURN)
    assert Wish.TURN in inbox


async def test_a_turn_makes_void_what_was_wished_of_an_idle_container_only() -> None:
    inbox = Inbox()
    for wish in Wish:
        inbox.put(wish)
    inbox.forget_idle()
    assert inbox.wishes == set(Wish) - OF_THE_IDLE


async def test_a_turn_may_be_cancelled_before_it_is_claimed() -> None:
    inbox = Inbox()
    assert not inbox.wants_cancelled(TurnId("a"))
    inbox.cancel(TurnId("a"))
    assert inbox.wants_cancelled(TurnId("a"))
    assert not inbox.wants_cancelled(TurnId("b"))


async def test_everybody_who_waits_looks_again_at_each_ring() -> None:
    inbox = Inbox()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        drained = group.create_task(inbox.until(lambda: Wish.DRAIN in inbox))
        left = group.create_task(inbox.until(lambda: Wish.LEAVE in inbox))
        await settle()
        inbox.put(Wish.ROOM)
        await settle()
        assert not drained.done()
        inbox.put(Wish.DRAIN)
        await drained
        assert not left.done()
        inbox.put(Wish.LEAVE)


async def test_what_was_wished_before_is_not_waited_for() -> None:
    inbox = Inbox()
    async with asyncio.timeout(5):
        await inbox.until(lambda: Wish.TURN in inbox)


async def test_a_ring_alone_makes_nothing_so() -> None:
    inbox = Inbox()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(inbox.until(lambda: Wish.LEAVE in inbox))
        await settle()
        inbox.ring()
        await settle()
        assert not waiting.done()
        waiting.cancel()
