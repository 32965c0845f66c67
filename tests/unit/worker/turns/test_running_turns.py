"""A worker runs turns: order, containers, what is published and what is logged."""

from __future__ import annotations

import asyncio

import pytest

from infra.wire.errors import ErrorCode, MalformedMessage, UnknownMessage
from infra.wire.events import TurnEnded, TurnStarted, Usage
from infra.wire.gateway import TurnMeter, UpstreamError
from infra.wire.link import Answer, InterruptReason
from infra.wire.options import AnswerForm, ClientTool, ClientTools, TurnOptions
from infra.wire.states import ConversationState, TurnState
from tests.fakes.worker_stage import Stage, conversation, eventually
from worker.turns.link.agent_link import AgentLink
from worker.turns.memory import stand
from worker.turns.phases import RunPhase
from worker.turns.run import TurnRun

pytestmark = pytest.mark.slow

C = conversation("one")


class NobodyListens:
    """A link's listener that nothing is said to."""

    def on_frame(self, line: bytes) -> None:
        raise AssertionError(line)

    def on_answer(self, answer: Answer) -> None:
        raise AssertionError(answer)

    def on_transcript(self, line: bytes) -> None:
        raise AssertionError(line)

    def on_offence(self, error: MalformedMessage) -> None:
        raise AssertionError(error)

    def on_unknown(self, unknown: UnknownMessage) -> None:
        raise AssertionError(unknown)

    def on_link_lost(self) -> None:
        raise AssertionError


class Pipe(asyncio.Transport):
    """What a link writes, line by line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[bytes] = []

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.lines.append(bytes(data))


async def test_the_gateway_gets_no_schemas_of_a_turn(stage: Stage) -> None:
    """They may be large, and it opens a turn anew whenever its budget changes. The limit of an
    answer in a form is not that of the text beside it."""
    await stage.worker()
    tools = ClientTools(tools=(ClientTool(name="go"),))
    form = AnswerForm(schema_text='{"type":"object"}')
    asked = TurnOptions(max_tokens=7, client_tools=tools)
    for options in (asked, asked.model_copy(update={"answer_form": form})):
        await stage.ended(await stage.ask(C, "echo x", turn_options=options))
    told = [opened.turn_options for opened in stage.gateway.opened]
    assert told == [TurnOptions(max_tokens=7), TurnOptions()]


async def test_a_turn_is_logged_and_published_exactly_once(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "echo a small answer")

    end = await stage.ended(turn)

    assert end.state is TurnState.DONE
    assert await stage.log_text(turn) == "a small answer"
    events = [event for _, event in await stage.logged(turn)]
    await stage.until_said(turn, len(events))
    assert [frame.n for frame in stage.frames[turn]] == list(range(1, len(events) + 1))
    assert stage.live_text(turn) == "a small answer"
    assert isinstance(events[0], TurnStarted)
    assert isinstance(events[-1], TurnEnded)


async def test_the_end_is_in_the_log_before_it_is_published(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "echo hello")
    await eventually(
        lambda: any(f.payload.startswith(b'{"type":"end"') for f in stage.frames[turn])
    )
    assert await stage.state(turn) is TurnState.DONE


async def test_ten_conversations_at_once_do_not_mix(stage: Stage) -> None:
    await stage.worker()
    keys = [conversation(f"c{i}") for i in range(10)]
    turns = [await stage.ask(c, f"echo answer of {c} " + "word " * 30) for c in keys]

    for c, turn in zip(keys, turns, strict=True):
        assert (await stage.ended(turn)).state is TurnState.DONE
        text = await stage.log_text(turn)
        assert text.startswith(f"answer of {c} ")
        assert not any(other in text for other in keys if other != c)
    assert sorted(stage.containers()) == sorted(keys)


async def test_the_second_turn_runs_in_the_same_container_and_session(stage: Stage) -> None:
    await stage.worker()
    await stage.ended(await stage.ask(C, "echo one", history=("zero",)))
    second = await stage.ask(C, "history", history=("zero", "echo one"))

    await stage.ended(second)

    assert len(stage.agents[C]) == 1
    assert await stage.log_text(second) == "zero | echo one | history"
    first, again = stage.agents[C][0].session.started
    assert len(first.history) == 1
    assert again.history == ()


async def test_turns_of_one_conversation_run_one_after_the_other_in_order(stage: Stage) -> None:
    await stage.worker()
    turns = [await stage.ask(C, f"echo number {i}") for i in range(5)]
    for turn in turns:
        await stage.ended(turn)
    started = [start.turn for start in stage.agents[C][0].session.started]
    assert started == turns


async def test_the_conversation_is_warm_with_an_idle_deadline_after_its_turn(stage: Stage) -> None:
    await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi"))
    record = await stage.store.conversations.get(C)
    assert record is not None
    assert record.state is ConversationState.WARM
    assert record.idle_at_ms is not None
    assert record.container is not None


async def test_the_gateway_gets_the_sealed_key_for_the_length_of_the_turn(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)
    opened = stage.gateway.turns[C]
    assert (opened.turn, opened.sealed_key) == (turn, "v1.sealed")
    assert stage.gateway.sessions[C].socket_dir == str(stage.folder / "s" / C)

    await stage.cancel(turn)
    await stage.ended(turn)

    assert C not in stage.gateway.turns
    assert stage.gateway.closed == [turn]


async def test_an_error_carries_the_wait_the_gateway_saw(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "wait 200", is_hinted=False)
    stage.gateway.meters_of[turn] = TurnMeter(
        usage=Usage(input_tokens=7), last_error=UpstreamError(status=429, retry_after_s=17)
    )
    failing = await stage.ask(conversation("fails"), "fail 429", is_hinted=False)
    stage.gateway.meters_of[failing] = stage.gateway.meters_of[turn]
    await stage.store.queue.enqueue(failing, None)

    end = await stage.ended(failing)

    assert end.error is not None
    assert (end.error.code, end.error.retry_after_s) == (ErrorCode.RATE_LIMITED, 17)
    assert end.usage.input_tokens == 7


async def test_a_cancelled_turn_ends_and_the_next_one_is_clean(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)

    await stage.cancel(turn)

    assert (await stage.ended(turn, timeout_s=5)).state is TurnState.CANCELLED
    after = await stage.ask(C, "echo clean")
    await stage.ended(after)
    assert await stage.log_text(after) == "clean"
    assert len(stage.agents[C]) == 1


async def test_a_lost_cancel_message_is_made_up_for_by_the_renewal(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)
    await stage.redis.hset(stage.keys.turn(turn), "cancel", "client_gone")  # type: ignore[misc]
    assert (await stage.ended(turn, timeout_s=10)).state is TurnState.CANCELLED


async def test_a_turn_past_its_deadline_is_stopped(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "hang", deadline_s=0.3)
    end = await stage.ended(turn)
    assert end.state is TurnState.FAILED
    assert end.error is not None
    assert end.error.code is ErrorCode.TURN_TIMED_OUT


async def test_a_gateway_that_restarts_learns_sessions_and_turns_again(stage: Stage) -> None:
    worker = await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)
    await worker.process.parts.gateway.check()
    stage.gateway.restart()

    await worker.process.parts.gateway.check()

    assert C in stage.gateway.sessions
    assert stage.gateway.turns[C].turn == turn


async def test_a_gateway_that_stays_away_ends_the_turn_with_an_error(stage: Stage) -> None:
    await stage.worker()
    stage.gateway.failures = -1
    turn = await stage.ask(C, "echo hi")

    end = await stage.ended(turn)

    assert end.error is not None
    assert end.error.code is ErrorCode.CONTAINER_FAILED
    assert "gateway" in end.error.message
    stage.gateway.failures = 0
    assert (await stage.ended(await stage.ask(C, "echo hi"))).state is TurnState.DONE


async def test_a_lost_hint_is_found_by_the_sweeper(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "echo found", is_hinted=False)
    assert (await stage.ended(turn)).state is TurnState.DONE


@pytest.mark.parametrize("words", [2000])
async def test_a_flood_arrives_complete(stage: Stage, words: int) -> None:
    await stage.worker()
    turn = await stage.ask(C, f"flood {words}")
    await stage.ended(turn)
    numbers = [int(w.strip("x")) for w in (await stage.log_text(turn)).split()]
    assert numbers == list(range(words))
    await asyncio.sleep(0)


async def test_a_turn_whose_end_is_decided_is_not_given_to_the_agent_any_more(
    stage: Stage,
) -> None:
    """Its preparation may be one step from the start when somebody cancels it."""
    parts = (await stage.worker()).process.parts
    await stage.ask(C, "echo too late", is_hinted=False)
    held = await parts.ownership.acquire(C)
    claimed = await parts.turns.claim(held.lease)
    assert claimed is not None
    run = TurnRun(parts, held, claimed)
    await run.put_on(stand(claimed, has_session=False, transcript=None))
    run.interrupt(InterruptReason.CANCELLED)

    link = AgentLink(NobodyListens(), parts.clock)
    link.connection_made(said := Pipe())
    run.start(link)

    assert (await run.ended()).end == TurnEnded(state=TurnState.CANCELLED)
    assert (run.phase, said.lines) == (RunPhase.ENDED, [])


async def test_what_a_failover_took_of_a_log_is_back_before_the_end(stage: Stage) -> None:
    await stage.worker()
    turn = await stage.ask(C, "hang")
    await stage.until_said(turn, 1)
    async with asyncio.timeout(10):
        while len(await stage.logged(turn)) < len(stage.frames[turn]):  # noqa: ASYNC110 - none tells
            await asyncio.sleep(0.01)
    before = await stage.logged(turn)
    await stage.redis.delete(stage.keys.turn_events(turn))
    await stage.redis.hset(stage.keys.turn(turn), "seq", "0")  # type: ignore[misc]

    await stage.cancel(turn)

    assert (await stage.ended(turn)).state is TurnState.CANCELLED
    after = await stage.logged(turn)
    assert after[: len(before)] == before
    assert [n for n, _ in after] == list(range(1, len(after) + 1))
