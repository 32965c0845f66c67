"""Redis did what it was asked, and its answer was lost: the worker asks again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from infra.wire.errors import StoreUnavailable
from infra.wire.states import ConversationState, TurnState
from tests.fakes.memory_host import VanishingHost
from tests.fakes.worker_stage import Stage, conversation, eventually

C = conversation("one")


def losing_the_first_answer(call: Callable[..., Awaitable[Any]]) -> tuple[Any, list[Any]]:
    """The call, whose first answer is lost, and the answers."""
    answers: list[Any] = []

    async def lossy(*args: Any, **kwargs: Any) -> Any:
        answers.append(await call(*args, **kwargs))
        if len(answers) == 1:
            raise StoreUnavailable("the answer is lost")
        return answers[-1]

    return lossy, answers


async def test_an_idle_container_is_stopped_when_the_word_that_it_may_be_is_lost(
    stage: Stage,
) -> None:
    """The record said `stopping` for good under a conversation that went on working, and a
    hand-over ended its running turn with an illegal transition."""
    conversations = stage.store.conversations
    conversations.reap, answers = losing_the_first_answer(  # type: ignore[method-assign]
        conversations.reap
    )
    first = await stage.worker()
    await stage.ended(await stage.ask(C, "echo hi", idle_timeout_s=0.1))
    await eventually(lambda: len(answers) >= 2 and not stage.containers())

    turn = await stage.ask(C, "stream 100 every 10 ms")
    await stage.until_said(turn, 10)
    record = await conversations.get(C)
    assert record is not None
    assert record.state is ConversationState.BUSY
    await (await stage.worker()).process.reaper.sweep()
    await first.stop()

    assert (await stage.ended(turn)).state is TurnState.DONE
    assert answers[:2] == [True, True]


async def test_a_record_that_is_elsewhere_than_its_owner_thinks_is_handed_over_as_it_is(
    stage: Stage,
) -> None:
    first = await stage.worker()
    turn = await stage.ask(C, "stream 100 every 10 ms")
    await stage.until_said(turn, 10)
    # Whatever did it: the table has no step from here to where the owner thinks it is.
    await stage.redis.hset(  # type: ignore[misc]
        stage.keys.conversation(C), "state", ConversationState.STOPPING.value
    )
    await (await stage.worker()).process.reaper.sweep()
    await first.stop()
    assert (await stage.ended(turn)).state.is_terminal
    assert (await stage.ended(await stage.ask(C, "echo again"))).state is TurnState.DONE


async def test_a_turn_that_was_given_back_is_not_failed_when_the_word_of_it_is_lost(
    stage: Stage,
) -> None:
    turns = stage.store.turns
    turns.requeue, answers = losing_the_first_answer(turns.requeue)  # type: ignore[method-assign]
    await stage.worker(host=VanishingHost(stage.machine))
    turn = await stage.ask(C, "echo hi")
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert answers == [True, True]
