"""What bounds a turn counts from its start, however many owners it has.

A deadline of two seconds was eight after three hand-overs, for it began anew with each owner; so
did the bytes that a turn may say.
"""

from __future__ import annotations

from infra.wire.errors import ErrorCode
from infra.wire.ids import TurnId
from infra.wire.states import TurnState
from tests.fakes.worker_stage import RunningWorker, Stage, conversation
from worker.turns.run import SAID_MAX_BYTES

C = conversation("one")


async def handed_over(stage: Stage, owner: RunningWorker) -> RunningWorker:
    successor = await stage.worker()
    await successor.process.reaper.sweep()
    await owner.stop()
    return successor


async def begun(stage: Stage, *, deadline_s: float) -> TurnId:
    turn = await stage.ask(C, "stream 2000 every 10 ms", deadline_s=deadline_s)
    await stage.until_said(turn, 1)
    return turn


async def test_a_deadline_does_not_begin_anew_with_the_next_owner(stage: Stage) -> None:
    owner = await stage.worker()
    turn = await begun(stage, deadline_s=600)
    # Nearly all of its time passes.
    await stage.redis.hincrby(stage.keys.turn(turn), "claimed", -599_500)  # type: ignore[misc]
    await handed_over(stage, owner)
    end = await stage.ended(turn)
    assert end.state is TurnState.FAILED
    assert end.error is not None
    assert end.error.code is ErrorCode.TURN_TIMED_OUT


async def test_a_turn_in_time_goes_on_with_the_next_owner(stage: Stage) -> None:
    owner = await stage.worker()
    turn = await stage.ask(C, "stream 60 every 10 ms", deadline_s=600)
    await stage.until_said(turn, 1)
    await stage.redis.hincrby(stage.keys.turn(turn), "claimed", -500_000)  # type: ignore[misc]
    await handed_over(stage, owner)
    assert (await stage.ended(turn)).state is TurnState.DONE


async def test_what_a_turn_may_say_does_not_begin_anew_with_the_next_owner(stage: Stage) -> None:
    owner = await stage.worker()
    turn = await begun(stage, deadline_s=600)
    said = SAID_MAX_BYTES - 1000
    await stage.redis.hset(stage.keys.turn(turn), "said", str(said))  # type: ignore[misc]
    await handed_over(stage, owner)
    end = await stage.ended(turn)
    assert end.error is not None
    assert end.error.code is ErrorCode.AGENT_FAILED
