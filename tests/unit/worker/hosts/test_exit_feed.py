"""How exits reach their watchers."""

from __future__ import annotations

import asyncio

import pytest

from infra.wire.ids import ConversationKey
from worker.hosts import exit_feed
from worker.hosts.exit_feed import ExitFeed
from worker.hosts.host import ContainerExit, ContainerId


def _killed(id: str) -> ContainerExit:
    return ContainerExit(ContainerId(id), ConversationKey("c"), 137, is_out_of_memory=True)


async def test_an_end_on_purpose_is_not_lack_of_memory() -> None:
    feed = ExitFeed()
    stream = feed.subscribe()
    feed.expect_end(ContainerId("one"))

    feed.publish(_killed("one"))
    feed.publish(_killed("two"))

    assert [(await anext(stream)).is_out_of_memory for _ in range(2)] == [False, True]


async def test_a_container_ends_once_however_often_it_is_reported() -> None:
    feed = ExitFeed()
    stream = feed.subscribe()

    for id in ("one", "one", "two"):
        feed.publish(_killed(id))

    assert [(await anext(stream)).id for _ in range(2)] == ["one", "two"]


async def test_exits_reported_by_a_thread_arrive() -> None:
    feed = ExitFeed()
    stream = feed.subscribe()

    await asyncio.to_thread(feed.publish, _killed("one"))

    async with asyncio.timeout(5):
        assert (await anext(stream)).id == "one"


async def test_a_watcher_that_never_reads_loses_the_oldest_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exit_feed, "PENDING_MAX", 2)
    feed = ExitFeed()
    stream = feed.subscribe()

    for id in ("one", "two", "three"):
        feed.publish(_killed(id))
    await asyncio.sleep(0)

    assert [(await anext(stream)).id for _ in range(2)] == ["two", "three"]
    assert "not read in time" in caplog.text


def test_a_watcher_whose_loop_has_ended_is_no_error() -> None:
    feed = ExitFeed()

    async def subscribe() -> object:
        return feed.subscribe()

    kept = asyncio.run(subscribe())
    feed.publish(_killed("one"))
    assert kept is not None
