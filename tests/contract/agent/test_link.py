"""What a worker may rely on at an agent's socket, whatever is behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infra.wire.base import PROTOCOL_VERSION
from infra.wire.errors import ErrorCode
from infra.wire.events import TextDelta, TurnStarted, decode_event
from infra.wire.frames import Frame
from infra.wire.ids import Fence, TurnId, WorkerId
from infra.wire.link import (
    Ack,
    Close,
    Hello,
    Interrupt,
    InterruptReason,
    Ping,
    Pong,
    Refused,
    Replay,
    Welcome,
)
from infra.wire.states import TurnState
from infra.wire.turns import HistoryMessage, TextBlock
from tests.contract.agent.conftest import Agent
from tests.fakes.link_client import (
    LinkClient,
    LinkClosed,
    connected,
    end_of,
    raw_link,
    start_turn,
    text_of,
)

pytestmark = pytest.mark.timeout(240)  # A real agent starts slowly on a busy machine.

STREAM = "stream 150 deltas every 10 ms"


async def read_text(link: LinkClient, *, pieces: int) -> list[Frame]:
    """Frames until that many text deltas have come."""
    frames: list[Frame] = []
    texts = 0
    while texts < pieces:
        frame = await link.read()
        assert isinstance(frame, Frame), frame
        frames.append(frame)
        texts += isinstance(decode_event(frame.payload), TextDelta)
    return frames


async def test_a_fresh_agent_welcomes_its_worker_and_has_no_session(agent: Agent) -> None:
    async with connected(agent.socket) as (_, welcome):
        assert welcome.version == PROTOCOL_VERSION
        assert welcome.sdk_session is None
        assert welcome.turn is None
        assert welcome.agent_version


async def test_a_turn_begins_with_started_as_number_one_and_has_one_end(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        events = await link.run(start_turn("t1", "echo hello world"))
    assert isinstance(events[0], TurnStarted)
    assert text_of(events) == "hello world"
    assert end_of(events).state is TurnState.DONE
    assert end_of(events).error is None
    assert end_of(events).usage.total_input_tokens > 0


async def test_text_comes_in_pieces_and_not_at_the_end(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.send(start_turn("t1", STREAM))
        await read_text(link, pieces=3)
        await link.send(Interrupt(turn=TurnId("t1"), reason=InterruptReason.CANCELLED))
        async for _ in link.frames():
            pass


async def test_the_next_turn_remembers_the_one_before(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.run(start_turn("t1", "echo one"))
        events = await link.run(start_turn("t2", "history"))
        assert "echo one" in text_of(events)
    async with connected(agent.socket) as (_, welcome):
        assert isinstance(events[0], TurnStarted)
        assert welcome.sdk_session == events[0].sdk_session


async def test_a_history_is_remembered_by_an_agent_without_a_session(agent: Agent) -> None:
    history = (
        HistoryMessage(role="user", content=(TextBlock(text="my name is Ada"),)),
        HistoryMessage(role="assistant", content=(TextBlock(text="hello Ada"),)),
    )
    async with connected(agent.socket) as (link, _):
        events = await link.run(start_turn("t1", "history", history=history))
    assert "my name is Ada" in text_of(events)


async def test_ping_is_answered_during_a_turn(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.send(start_turn("t1", STREAM))
        await read_text(link, pieces=1)
        await link.send(Ping())
        await link.expect(Pong)


async def test_starting_the_running_turn_again_changes_nothing(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        start = start_turn("t1", STREAM)
        await link.send(start)
        await link.send(start)
        events = await link.collect(start.turn)
        assert end_of(events).state is TurnState.DONE
        assert len(text_of(events).split()) == 150


async def test_starting_a_turn_that_has_just_ended_does_not_run_it_twice(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        start = start_turn("t1", "echo once")
        events = await link.run(start)
        await link.send(Ack(turn=start.turn, n=len(events)))
        await link.send(start)
        assert text_of(await link.run(start_turn("t2", "echo twice"))) == "twice"


async def test_another_turn_is_refused_while_one_runs(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.send(start_turn("t1", STREAM))
        await read_text(link, pieces=1)
        await link.send(start_turn("t2", "echo no"))
        refused = await link.expect(Refused)
        assert refused.turn == "t2"


async def test_a_cut_link_loses_and_doubles_nothing(agent: Agent) -> None:
    async with connected(agent.socket, fence=5) as (link, _):
        await link.send(start_turn("t1", STREAM))
        seen = await read_text(link, pieces=20)
        await link.send(Ack(turn=TurnId("t1"), n=10))
    async with connected(agent.socket, fence=6) as (link, welcome):
        assert welcome.turn == "t1"
        assert welcome.last_n >= seen[-1].n
        await link.send(Replay(turn=TurnId("t1"), after=seen[-1].n))
        rest = [frame async for frame in link.frames()]
    numbers = [frame.n for frame in seen + rest]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {frame.fence for frame in seen} == {5}
    assert {frame.fence for frame in rest} == {6}
    told = [decode_event(frame.payload) for frame in seen + rest]
    indices = [piece.split("@")[0] for piece in text_of(told).split()]
    assert indices == [str(i) for i in range(150)]


async def test_a_turn_ends_without_a_worker_and_its_frames_wait(agent: Agent) -> None:
    async with connected(agent.socket, fence=1) as (link, _):
        await link.send(start_turn("t1", "stream 30 deltas every 10 ms"))
        seen = await read_text(link, pieces=2)
    async with asyncio.timeout(30):
        while True:  # The agent tells nobody but a worker when it is done: so ask.
            async with connected(agent.socket, fence=2) as (_, welcome):
                last_n = welcome.last_n
            async with connected(agent.socket, fence=2) as (link, welcome):
                events = await link.replay(TurnId("t1"))
                break
    assert end_of(events).state is TurnState.DONE
    assert len(events) >= last_n >= seen[-1].n
    assert len(text_of(events).split()) == 30


async def test_acknowledging_the_end_frees_the_turn(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        events = await link.run(start_turn("t1", "echo x"))
        async with connected(agent.socket) as (second, welcome):
            assert (welcome.turn, welcome.last_n) == ("t1", len(events))
            await second.send(Ack(turn=TurnId("t1"), n=len(events)))
            async with connected(agent.socket) as (third, welcome):
                assert (welcome.turn, welcome.last_n) == (None, 0)
                await third.send(Replay(turn=TurnId("t1")))
                assert (await third.expect(Refused)).code is ErrorCode.TURN_NOT_FOUND


async def test_a_lower_fence_is_refused(agent: Agent) -> None:
    async with connected(agent.socket, fence=7) as (link, _):
        async with raw_link(agent.socket) as late:
            await late.send(Hello(worker=WorkerId("host-late"), fence=Fence(6)))
            assert "fence" in (await late.expect(Refused)).message
            with pytest.raises(LinkClosed):
                await late.read()
        await link.send(Ping())
        await link.expect(Pong)


async def test_an_equal_fence_takes_over_and_closes_the_link_before(agent: Agent) -> None:
    async with (
        connected(agent.socket, fence=7) as (first, _),
        connected(agent.socket, fence=7) as (second, _),
    ):
        with pytest.raises(LinkClosed):
            await first.read()
        await second.send(Ping())
        await second.expect(Pong)


async def test_another_major_version_is_refused(agent: Agent) -> None:
    async with raw_link(agent.socket) as link:
        hello = Hello(version=PROTOCOL_VERSION + 1, worker=WorkerId("w"), fence=Fence(1))
        await link.send(hello)
        assert "version" in (await link.expect(Refused)).message


@pytest.mark.parametrize(
    "line", [b"no json\n", b'{"type":"ping"}\n', b'{"type":"hello","worker":"w"}\n', b"[]\n"]
)
async def test_a_link_that_begins_with_anything_else_is_refused(agent: Agent, line: bytes) -> None:
    async with raw_link(agent.socket) as link:
        await link.send_raw(line)
        await link.expect(Refused)
        with pytest.raises(LinkClosed):
            await link.read()
    async with connected(agent.socket):
        pass


async def test_an_unknown_command_is_skipped_and_a_broken_one_ends_the_link(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.send_raw(b'{"type":"dance","steps":3}\n')
        await link.send_raw(b'{"type":"ping","unknown":"field"}\n')
        await link.expect(Pong)
        await link.send_raw(b'{"type":"ack"}\n')
        await link.expect(Refused)
        with pytest.raises(LinkClosed):
            await link.read()


@pytest.mark.parametrize(
    ("reason", "state", "code"),
    [
        (InterruptReason.CANCELLED, TurnState.CANCELLED, None),
        (InterruptReason.DEADLINE, TurnState.FAILED, ErrorCode.TURN_TIMED_OUT),
        (InterruptReason.SHUTDOWN, TurnState.INTERRUPTED, ErrorCode.SHUTTING_DOWN),
    ],
)
async def test_an_interrupted_turn_ends_soon_by_its_reason_and_the_next_is_clean(
    agent: Agent, reason: InterruptReason, state: TurnState, code: Any
) -> None:
    async with connected(agent.socket) as (link, _):
        await link.send(start_turn("t1", "stream 1000 deltas every 20 ms"))
        seen = await read_text(link, pieces=3)
        async with asyncio.timeout(10):
            await link.send(Interrupt(turn=TurnId("t1"), reason=reason))
            events = await link.collect(TurnId("t1"), after=seen[-1].n)
        assert end_of(events).state is state
        error = end_of(events).error
        assert (error.code if error else None) is code
        assert text_of(await link.run(start_turn("t2", "echo clean"))) == "clean"


async def test_a_turn_interrupted_at_once_still_ends(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.send(start_turn("t1", STREAM))
        await link.send(Interrupt(turn=TurnId("t1"), reason=InterruptReason.CANCELLED))
        events = await link.collect(TurnId("t1"))
        assert end_of(events).state is TurnState.CANCELLED
        assert text_of(await link.run(start_turn("t2", "echo clean"))) == "clean"


async def test_an_interrupt_of_a_turn_that_is_over_is_harmless(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.run(start_turn("t1", "echo x"))
        await link.send(Interrupt(turn=TurnId("t1"), reason=InterruptReason.CANCELLED))
        await link.send(Interrupt(turn=TurnId("t0"), reason=InterruptReason.CANCELLED))
        assert text_of(await link.run(start_turn("t2", "echo clean"))) == "clean"


async def test_a_full_outbox_stops_the_agent_until_it_is_acknowledged(agent: Agent) -> None:
    """A worker that cannot log holds the agent back; nothing is lost on the way."""
    async with connected(agent.socket) as (link, _):
        start = start_turn("t1", "stream 3000 deltas of 40 chars", buffer_max_bytes=20_000)
        await link.send(start)
        last_n, texts = 0, []
        async for frame in link.frames():
            assert frame.n == last_n + 1
            last_n = frame.n
            texts.append(decode_event(frame.payload))
            await link.send(Ack(turn=start.turn, n=last_n))
    assert len(text_of(texts).split()) == 3000


async def test_a_full_outbox_does_not_hold_up_an_interrupt(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        start = start_turn("t1", "stream 1000 deltas every 10 ms", buffer_max_bytes=1_000)
        await link.send(start)
        seen = await read_text(link, pieces=5)
        await link.send(Interrupt(turn=start.turn, reason=InterruptReason.CANCELLED))
        async with asyncio.timeout(10):
            events = await link.collect(start.turn, after=seen[-1].n)
        assert end_of(events).state is TurnState.CANCELLED


async def test_strange_text_survives_the_way_there_and_back(agent: Agent) -> None:
    text = 'a"b\\c\u2028d\U0001f600 \u00e9'
    async with connected(agent.socket) as (link, _):
        events = await link.run(start_turn("t1", f"echo {text}"))
    assert text_of(events) == text


async def test_close_ends_the_agent(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.run(start_turn("t1", "echo x"))
        await link.send(Close())
        with pytest.raises(LinkClosed):
            await link.read()
    assert not agent.socket.exists()


async def test_close_in_the_middle_of_a_turn_ends_the_agent(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.send(start_turn("t1", STREAM))
        seen = await read_text(link, pieces=1)
        await link.send(Close())
        with pytest.raises(LinkClosed):
            await link.collect(TurnId("t1"), after=seen[-1].n)
    assert not agent.socket.exists()


async def test_a_welcome_can_follow_a_silent_link(agent: Agent) -> None:
    """A connection that says nothing takes nothing from the worker."""
    async with raw_link(agent.socket), connected(agent.socket) as (link, welcome):
        assert isinstance(welcome, Welcome)
        await link.send(Ping())
        await link.expect(Pong)


async def test_an_agent_reports_its_start_once_before_it_answers(agent: Agent) -> None:
    async with connected(agent.socket) as (link, _):
        await link.run(start_turn("t1", "count 1"))
        [times] = link.times
        await link.run(start_turn("t2", "count 1"))

    assert link.times == [times]
    assert times.listening_ms
    assert times.cli_spawned_ms
    assert times.cli_connected_ms
    assert times.python_ms <= times.listening_ms
    assert times.cli_spawned_ms <= times.cli_connected_ms
