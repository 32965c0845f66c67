"""What is kept of a transcript, and how its entries get to a worker that comes and goes."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from agent.memory.transcripts import (
    BATCH_MAX_BYTES,
    DEPTH_MAX,
    Entry,
    PartKey,
    TranscriptNotStored,
    Transcripts,
)
from infra.store.conversations.transcripts import StoredTranscript
from infra.wire.link import StartTurn, Transcript, TranscriptAppend, TranscriptPart, decode_command
from tests.fakes.link_client import start_turn
from worker.turns.link.transcript_lines import read_part

MAIN = PartKey("p", "s")
SUB = PartKey("p", "s", "subagents/agent-1")


class Worker:
    """Takes messages, and answers them when it is told to."""

    def __init__(self, transcripts: Transcripts, *, answers: bool = True) -> None:
        self.got: list[TranscriptAppend] = []
        self._transcripts = transcripts
        self._answers = answers

    def send(self, message: TranscriptAppend) -> None:
        self.got.append(message)
        if self._answers:
            asyncio.get_running_loop().call_soon(self._transcripts.stored, message.seq)

    def entries(self) -> list[Any]:
        return [entry for message in self.got for entry in message.part.entries]


def entry(id: str | None, **more: Any) -> Entry:
    return {"type": "user", **({"uuid": id} if id else {}), **more}


async def test_an_append_returns_when_the_worker_has_stored_it() -> None:
    transcripts = Transcripts()
    worker = Worker(transcripts, answers=False)
    transcripts.attach(worker.send)
    async with asyncio.TaskGroup() as group:
        append = group.create_task(transcripts.append(MAIN, [entry("a"), entry("b")]))
        await asyncio.sleep(0)
        assert not append.done()
        transcripts.stored(worker.got[0].seq)
    assert worker.got[0].sdk_session == "s"
    assert worker.got[0].part == TranscriptPart(entries=(entry("a"), entry("b")))


async def test_one_message_is_under_way_and_what_comes_meanwhile_is_joined() -> None:
    transcripts = Transcripts()
    worker = Worker(transcripts, answers=False)
    transcripts.attach(worker.send)
    for id in "abc":
        transcripts.add(MAIN, [entry(id)])
    transcripts.add(SUB, [entry("d")])
    transcripts.add(MAIN, [entry("e")])
    assert len(worker.got) == 1
    for expected in (["b", "c"], ["d"], ["e"]):
        transcripts.stored(worker.got[-1].seq)
        assert [e["uuid"] for e in worker.got[-1].part.entries] == expected
    assert [m.part.subpath for m in worker.got] == [None, None, "subagents/agent-1", None]
    assert [m.seq for m in worker.got] == [1, 2, 3, 4]


async def test_a_new_worker_gets_what_the_old_one_did_not_answer() -> None:
    transcripts = Transcripts()
    old = Worker(transcripts, answers=False)
    transcripts.attach(old.send)
    transcripts.add(MAIN, [entry("a")])
    transcripts.add(MAIN, [entry("b")])
    transcripts.detach(old.send)
    transcripts.add(MAIN, [entry("c")])
    new = Worker(transcripts)
    transcripts.attach(new.send)
    await transcripts.append(MAIN, [entry("d")])
    assert [m.seq for m in old.got] == [1]
    assert [e["uuid"] for e in new.entries()] == ["a", "b", "c", "d"]
    assert new.got[0] == old.got[0]


async def test_letting_go_of_an_old_link_does_not_cut_the_new_one() -> None:
    transcripts = Transcripts()
    old, new = Worker(transcripts, answers=False), Worker(transcripts)
    transcripts.attach(old.send)
    transcripts.attach(new.send)
    transcripts.detach(old.send)
    await transcripts.append(MAIN, [entry("a")])
    assert new.got


async def test_an_answer_to_another_message_is_harmless() -> None:
    transcripts = Transcripts(timeout_s=0.05)
    worker = Worker(transcripts, answers=False)
    transcripts.attach(worker.send)
    transcripts.stored(7)
    transcripts.add(MAIN, [entry("a")])
    transcripts.stored(7)
    with pytest.raises(TranscriptNotStored):
        await transcripts.append(MAIN, [entry("b")])


async def test_a_worker_that_is_late_is_waited_for_once() -> None:
    """The SDK appends one entry after the other: to wait for each would hold a turn for minutes."""
    transcripts = Transcripts(timeout_s=0.05)
    with pytest.raises(TranscriptNotStored):
        await transcripts.append(MAIN, [entry("a")])
    await transcripts.append(MAIN, [entry("b")])
    worker = Worker(transcripts)
    transcripts.attach(worker.send)
    for _ in range(3):
        await asyncio.sleep(0)  # The worker answers in the next pass of the loop.
    assert worker.entries() == [entry("a"), entry("b")]
    transcripts.detach(worker.send)
    with pytest.raises(TranscriptNotStored):
        await transcripts.append(MAIN, [entry("c")])


async def test_an_entry_is_kept_and_sent_once() -> None:
    transcripts = Transcripts()
    worker = Worker(transcripts)
    transcripts.attach(worker.send)
    await transcripts.append(MAIN, [entry("a"), entry(None)])
    await transcripts.append(MAIN, [entry("a"), entry(None), entry("b")])
    expected = [entry("a"), entry(None), entry(None), entry("b")]
    assert transcripts.entries(MAIN) == worker.entries() == expected


async def test_a_given_transcript_is_not_sent_back() -> None:
    transcripts = Transcripts()
    worker = Worker(transcripts)
    transcripts.attach(worker.send)
    parts = (
        TranscriptPart(entries=(entry("a"),)),
        TranscriptPart(subpath="subagents/agent-1", entries=(entry("x"),)),
    )
    transcripts.adopt("p", Transcript(sdk_session="s", parts=parts))
    await transcripts.append(MAIN, [entry("a"), entry("b")])
    assert worker.entries() == [entry("b")]
    assert transcripts.entries(MAIN) == [entry("a"), entry("b")]
    assert transcripts.subpaths("p", "s") == ["subagents/agent-1"]


async def test_the_newest_entry_with_a_name_is_where_a_turn_ended() -> None:
    transcripts = Transcripts()
    assert transcripts.last_id(MAIN) is None
    transcripts.add(MAIN, [entry("a"), entry("b"), entry(None)])
    assert transcripts.last_id(MAIN) == "b"
    assert transcripts.has(MAIN, "a")
    assert not transcripts.has(SUB, "a")


async def test_sessions_that_were_left_are_forgotten_with_what_was_unsent() -> None:
    transcripts = Transcripts()
    transcripts.add(MAIN, [entry("a")])
    transcripts.add(SUB, [entry("x")])
    other = PartKey("p", "other")
    transcripts.add(other, [entry("b")])
    transcripts.forget_but("p", "other")
    assert transcripts.entries(MAIN) is None
    assert transcripts.subpaths("p", "s") == []
    worker = Worker(transcripts)
    transcripts.attach(worker.send)
    await transcripts.append(other, [entry("c")])
    assert worker.entries() == [entry("b"), entry("c")]


async def test_a_session_that_grows_too_long_is_given_up_whole() -> None:
    """A hole in its middle would be resumed without anybody noticing."""
    transcripts = Transcripts(max_bytes=1000)
    transcripts.add(MAIN, [entry("a")])
    await transcripts.append(MAIN, [entry("b", text="x" * 1000)])
    await transcripts.append(MAIN, [entry("c")])
    assert transcripts.is_given_up("p", "s")
    assert transcripts.entries(MAIN) is None
    transcripts.add(PartKey("p", "next"), [entry("d")])
    assert transcripts.entries(PartKey("p", "next")) == [entry("d")]


async def test_a_message_is_closed_when_it_is_large() -> None:
    transcripts = Transcripts()
    half = "x" * (BATCH_MAX_BYTES // 2)
    transcripts.add(MAIN, [entry(str(i), text=half) for i in range(5)])
    worker = Worker(transcripts)
    transcripts.attach(worker.send)
    await transcripts.append(MAIN, [entry("last")])
    assert [len(m.part.entries) for m in worker.got] == [2, 2, 2]


def nested(depth: int) -> Any:
    value: Any = "deepest"
    for _ in range(depth):
        value = {"in": [value]}
    return value


@pytest.mark.parametrize(
    "odd",
    [nested(50), nested(120), nested(20_000), "\ud83d", math.nan, math.inf, {3}, b"x", 10**400],
    ids=["deep", "deeper", "deepest", "half", "nan", "inf", "set", "bytes", "long"],
)
async def test_an_odd_entry_is_written_and_can_be_read_again(odd: Any) -> None:
    """One that could not be written was sent over each new link, and the agent ended of it."""
    transcripts = Transcripts()
    worker = Worker(transcripts)
    transcripts.attach(worker.send)
    await transcripts.append(MAIN, [entry("a"), entry("b", input=odd), entry("c")])
    entries = [raw for message in worker.got for raw in read_part(message.encode()).entries]
    assert [raw.uuid for raw in entries] == ["a", "b", "c"]
    stored = StoredTranscript("s", {"": [raw.json for raw in entries]}).encode()
    line = start_turn("t", "x").encode()[:-1] + b',"transcript":' + stored + b"}"
    again = decode_command(line)
    assert isinstance(again, StartTurn)
    assert again.transcript is not None
    assert len(again.transcript.parts[0].entries) == 3


async def test_an_ordinary_entry_is_kept_as_it_is() -> None:
    transcripts = Transcripts()
    many = entry("a", input=[{} for _ in range(DEPTH_MAX)], deep=nested(DEPTH_MAX // 2 - 1))
    transcripts.add(MAIN, [many])
    assert transcripts.entries(MAIN) == [many]
