"""Words of a later version in Redis: two versions run side by side while a cluster is renewed."""

from __future__ import annotations

import pytest

from infra.store.placement.waiting_room import Taken
from infra.wire.errors import UnknownMessage
from infra.wire.states import TurnState
from tests.fakes.worker_stage import Stage, conversation

NEW, OTHER = conversation("new"), conversation("other")


@pytest.mark.parametrize(
    ("field", "word"), [("lane", "batch"), ("on_disconnect", "later"), ("state", "claimed")]
)
async def test_a_turn_with_a_later_word_does_not_keep_the_others_from_being_found(
    stage: Stage, field: str, word: str
) -> None:
    """One such turn made each sweep fail: the one whose hint was lost waited until it ran out."""
    strange = await stage.ask(NEW, "echo x", is_hinted=False)
    await stage.redis.hset(stage.keys.turn(strange), field, word)  # type: ignore[misc]
    await stage.worker()
    turn = await stage.ask(OTHER, "echo y", is_hinted=False)
    assert (await stage.ended(turn)).state is TurnState.DONE


async def test_a_turn_of_a_later_lane_is_left_to_workers_that_know_it(stage: Stage) -> None:
    strange = await stage.ask(NEW, "echo x", is_hinted=False)
    for key in (stage.keys.turn(strange), stage.keys.conversation(NEW)):
        await stage.redis.hset(key, "lane", "batch")  # type: ignore[misc]
    worker = await stage.worker()
    await worker.process.reaper.sweep()
    turn = await stage.ask(OTHER, "echo y")
    assert (await stage.ended(turn)).state is TurnState.DONE
    assert await stage.redis.hget(stage.keys.turn(strange), "state") == b"queued"  # type: ignore[misc]
    taken = await stage.store.room.take(
        worker.id, worker.process.parts.host_id, home_patience_s=1, container_mb=1
    )
    assert not isinstance(taken, Taken)
    with pytest.raises(UnknownMessage, match="batch"):
        await stage.store.turns.get(strange)
