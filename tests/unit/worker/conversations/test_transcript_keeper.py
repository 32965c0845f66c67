"""Transcript entries on their way to a store that is slow or away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pytest

from infra.store.conversations.leases import Lease
from infra.store.conversations.transcripts import RawPart
from infra.wire.errors import MalformedMessage
from infra.wire.ids import ConversationKey, Fence, WorkerId
from infra.wire.link import TRANSCRIPT_HEAD, TranscriptAppend, TranscriptPart
from tests.fakes.manual_clock import ManualClock
from worker.conversations.transcript_keeper import (
    OWN_BYTES,
    PENDING_MAX,
    PENDING_MAX_BYTES,
    TranscriptKeeper,
)
from worker.hosts.host import ContainerId
from worker.lines import CutLine, HeldLines

LEASE = Lease(ConversationKey("c" * 24), WorkerId("host-1-a"), Fence(7))


@dataclass
class SlowShelf:
    """A store that takes entries when it is told to."""

    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    kept: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)

    async def append(self, lease: Lease, sdk_session: str, part: RawPart) -> bool:
        await self.is_open.wait()
        self.kept += [entry.uuid for entry in part.entries]
        return True

    async def give_up(self, lease: Lease, sdk_session: str) -> None:
        self.given_up.append(sdk_session)


def line(seq: int, *uuids: str) -> bytes:
    part = TranscriptPart(entries=tuple({"uuid": uuid} for uuid in uuids))
    return TranscriptAppend(seq=seq, sdk_session="s-1", part=part).encode()


async def stored(
    taken: list[bytes],
    held: HeldLines | None = None,
    containers: Sequence[ContainerId] = (),
) -> tuple[SlowShelf, list[Any], HeldLines]:
    """What becomes of lines that all came before the store took the first."""
    shelf, held, answered = SlowShelf(), held or HeldLines(), list[Any]()
    keeper = TranscriptKeeper(
        shelf,
        LEASE,
        ManualClock(),
        held,
        is_complete=True,
        on_stored=lambda seq, of: answered.append(seq if of is None else (seq, of)),
    )
    others = held.held_bytes
    for one, container in zip_longest(taken, containers):
        keeper.take(one, container)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(keeper.run())
        shelf.is_open.set()
        assert await keeper.settled(timeout_s=10)
        running.cancel()
    assert held.held_bytes == others
    return shelf, answered, held


async def test_what_is_said_again_over_a_new_link_waits_once() -> None:
    shelf, answered, _ = await stored([line(1, "a"), line(1, "a"), line(2, "b")])
    assert (shelf.kept, answered) == (["a", "b"], [1, 2])


async def test_another_process_may_count_from_one_again() -> None:
    """An answer to the one before told it that its own entries were stored."""
    old, new = ContainerId("old"), ContainerId("new")
    shelf, answered, _ = await stored([line(1, "a"), line(1, "b")], containers=(old, new))
    assert shelf.kept == ["a", "b"]
    assert answered == [(1, old), (1, new)]


async def test_an_agent_that_floods_is_left_with_what_it_has() -> None:
    flood = [line(n, f"u{n}") for n in range(3 * PENDING_MAX)]
    shelf, answered, _ = await stored(flood)
    assert len(shelf.kept) == len(answered) == PENDING_MAX
    large = [line(n, "x" * (PENDING_MAX_BYTES // 2)) for n in range(3)]
    assert len((await stored(large))[1]) == 1


async def test_what_others_have_waiting_leaves_each_agent_its_own_message() -> None:
    held = HeldLines(waiting_max_bytes=2 * OWN_BYTES)
    assert held.wait(2 * OWN_BYTES)
    mine = [line(1, "x" * (OWN_BYTES // 2)), line(2, "b")]
    assert (await stored(mine, held))[1] == [1]
    longer = [line(1, "x" * OWN_BYTES)]
    assert (await stored(longer, held))[1] == [], "left with the agent, which has it still"
    held.done(2 * OWN_BYTES)
    assert (await stored(longer, held))[1] == [1]


async def test_a_message_too_long_to_keep_gives_its_session_up_and_is_answered() -> None:
    """An honest agent would wait for its answer for ever, and say it again over each link."""
    cut = CutLine(line(3, "a")[:80])
    shelf, answered, _ = await stored([cut])
    assert (shelf.kept, shelf.given_up, answered) == ([], ["s-1"], [3])


async def test_what_is_no_entry_is_dropped_and_answered() -> None:
    broken = TRANSCRIPT_HEAD + b'"seq":4,"sdk_session":"s-1","part":{"entries":[7]}}'
    shelf, answered, _ = await stored([broken, line(5, "a")])
    assert (shelf.kept, answered) == (["a"], [4, 5])
    with pytest.raises(MalformedMessage):
        await stored([TRANSCRIPT_HEAD + b'"seq":"four"'])
