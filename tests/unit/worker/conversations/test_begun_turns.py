"""Turns that their submit began: to the agent without asking, and never twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from infra.wire.control import TurnWaits
from infra.wire.history.decision import Accepted, digest
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from infra.wire.turns import TextBlock
from tests.fakes.worker_stage import RunningWorker, Stage, conversation, eventually
from tests.unit.worker.conversations.test_remembering import accepted, said

pytestmark = pytest.mark.slow

C = conversation("one")


class Asked:
    """How often the store was asked for what a begun turn does without."""

    def __init__(self, worker: RunningWorker) -> None:
        self.count: Counter[str] = Counter()
        turns = worker.process.parts.turns
        for name in ("claim", "start"):
            setattr(turns, name, self._counted(name, getattr(turns, name)))

    def _counted(
        self, name: str, ask: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def counted(*args: Any, **options: Any) -> Any:
            self.count[name] += 1
            return await ask(*args, **options)

        return counted


def deaf(worker: RunningWorker) -> list[TurnWaits]:
    """The messages that it does not hear from now on."""
    missed: list[TurnWaits] = []

    def miss(waits: TurnWaits) -> None:
        missed.append(waits)

    worker.process.placement.turn_waits = miss  # type: ignore[method-assign]
    return missed


async def missed_turn(stage: Stage, worker: RunningWorker, prompt: str) -> TurnWaits:
    """A turn that was begun for a warm owner whose message is lost."""
    assert await said(stage, "echo one", is_thin=True) == "one"
    missed = deaf(worker)
    await stage.ask(C, prompt, is_thin=True, is_hinted=False)
    await eventually(lambda: bool(missed))
    assert missed[0].begun is not None
    return missed[0]


async def test_a_warm_turn_is_neither_claimed_nor_started_by_its_owner(stage: Stage) -> None:
    worker = await stage.worker()
    assert await said(stage, "echo one", is_thin=True) == "one"
    asked = Asked(worker)
    assert await said(stage, "echo two", is_thin=True) == "two"
    assert await said(stage, "history", is_thin=True) == "echo one | echo two | history"
    assert asked.count["start"] == 0
    known = await accepted(stage)
    assert [entry.digest for entry in known] == [of(s) for s in ("echo one", "echo two", "history")]
    assert all(entry.checkpoint for entry in known)


def of(text: str) -> str:
    return digest([TextBlock(text=text)])


async def test_who_sends_everything_again_is_started_once_more_only_the_first_time(
    stage: Stage,
) -> None:
    worker = await stage.worker()
    assert await said(stage, "echo one") == "one"
    asked = Asked(worker)
    assert await said(stage, "echo one", "echo two", answers=("one",)) == "two"
    assert asked.count["start"] == 1, "it is on record now that its client does so"
    told = await said(stage, "echo one", "echo two", "history", answers=("one", "two"))
    assert told == "echo one | echo two | history"
    assert asked.count["start"] == 1


async def test_an_edited_history_is_recorded_before_the_agent_hears_of_it(stage: Stage) -> None:
    worker = await stage.worker()
    assert await said(stage, "echo one") == "one"
    assert await said(stage, "echo one", "echo two", answers=("one",)) == "two"
    asked = Asked(worker)
    assert await said(stage, "echo one", "history", answers=("one",)) == "echo one | history"
    assert asked.count["start"] == 1
    known: list[Accepted] = await accepted(stage)
    assert [entry.digest for entry in known] == [of("echo one"), of("history")]


async def test_a_message_that_was_lost_is_made_up_for_when_the_owner_looks(stage: Stage) -> None:
    worker = await stage.worker()
    missed = await missed_turn(stage, worker, "echo two")
    worker.process.placement.poke_all()
    assert (await stage.ended(missed.turn)).state is TurnState.DONE


async def test_a_message_that_comes_again_after_its_turn_begins_nothing(stage: Stage) -> None:
    worker = await stage.worker()
    missed = await missed_turn(stage, worker, "echo two")
    actor = worker.process.placement.conversations[C]
    worker.process.placement.poke_all()
    await stage.ended(missed.turn)
    await eventually(lambda: actor.is_resting)

    actor.bring(missed)

    await eventually(lambda: actor.is_resting)
    del worker.process.placement.turn_waits
    assert await said(stage, "history", is_thin=True) == "echo one | echo two | history"


async def test_a_dead_owners_begun_turn_goes_on_with_its_agent(stage: Stage) -> None:
    worker = await stage.worker()
    missed = await missed_turn(stage, worker, "echo two")
    await worker.kill()
    await stage.redis.delete(stage.keys.lease(C))
    await stage.redis.zadd(stage.keys.turns_open(), {missed.turn: 0})
    await stage.worker()
    assert (await stage.ended(missed.turn)).state is TurnState.DONE
    assert await stage.log_text(missed.turn) == "two"
    assert len(stage.agents[C]) == 1
    assert [entry.digest for entry in await accepted(stage)] == [of("echo one"), of("echo two")]


@pytest.mark.parametrize("is_retiring", [False, True])
async def test_a_leaving_owners_begun_turn_waits_for_another(
    stage: Stage, is_retiring: bool
) -> None:
    worker = await stage.worker()
    missed = await missed_turn(stage, worker, "echo two")
    await stage.worker()
    await worker.process.placement.drain(is_retiring=is_retiring)
    assert (await stage.ended(missed.turn)).state is TurnState.DONE


async def test_a_cancel_before_the_message_stops_it(stage: Stage) -> None:
    worker = await stage.worker()
    missed = await missed_turn(stage, worker, "hang")
    await stage.cancel(missed.turn)
    worker.process.placement.conversations[C].bring(missed)
    assert (await stage.ended(missed.turn)).state is TurnState.CANCELLED


async def test_one_that_needs_a_new_agent_is_recorded_before_that_hears_of_it(
    stage: Stage,
) -> None:
    worker = await stage.worker()
    missed = await missed_turn(stage, worker, "echo two")
    actor = worker.process.placement.conversations[C]
    asked = Asked(worker)
    actor._session.lose()  # As its exit does, in the same moment.
    actor.bring(missed)
    assert (await stage.ended(missed.turn)).state is TurnState.DONE
    assert asked.count["start"] == 1
    assert len(stage.agents[C]) == 2


async def test_a_stop_right_behind_the_message_stops_turn_and_container(stage: Stage) -> None:
    worker = await stage.worker()
    missed = await missed_turn(stage, worker, "hang")
    actor = worker.process.placement.conversations[C]
    actor.bring(missed)
    actor.stop()
    assert (await stage.ended(missed.turn)).state is TurnState.CANCELLED
    await eventually(lambda: C not in worker.process.placement.conversations)


async def test_a_turn_that_no_one_may_read_ends(stage: Stage) -> None:
    worker = await stage.worker()
    missed = await missed_turn(stage, worker, "echo two")
    turn = TurnId(missed.turn)
    await stage.redis.set(stage.keys.turn_request(turn), b"{}")
    begun = missed.begun
    assert begun is not None
    broken = missed.model_copy(update={"begun": begun.model_copy(update={"request": "{}"})})
    worker.process.placement.conversations[C].bring(broken)
    assert (await stage.ended(turn)).state is TurnState.FAILED
