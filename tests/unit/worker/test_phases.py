"""The worker's own state machines: their tables, their story, their drawing."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.wire.errors import IllegalTransition
from worker import diagrams
from worker.conversations.phases import ACTOR_TRANSITIONS, ActorPhase
from worker.life import STORY_MAX, Life
from worker.turns.phases import RUN_TRANSITIONS, RunPhase

ROOT = Path(__file__).resolve().parents[3]


def test_the_document_shows_the_tables_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert diagrams.main(["--check"]) == 0


def test_an_actor_lives_by_its_table() -> None:
    life = Life("actor", ActorPhase.RECOVERING, ACTOR_TRANSITIONS)
    for phase in (
        ActorPhase.LOOKING,
        ActorPhase.RUNNING,
        ActorPhase.LOOKING,
        ActorPhase.RESTING,
        ActorPhase.LOOKING,
        ActorPhase.STOPPING,
        ActorPhase.LOOKING,
        ActorPhase.GONE,
    ):
        life.to(phase)
    assert life.state is ActorPhase.GONE


def test_an_illegal_step_raises_with_the_story() -> None:
    life = Life("actor", ActorPhase.RECOVERING, ACTOR_TRANSITIONS)
    life.to(ActorPhase.LOOKING)
    life.to(ActorPhase.RESTING)
    with pytest.raises(IllegalTransition, match="recovering -> looking -> resting"):
        life.to(ActorPhase.RUNNING)
    assert life.state is ActorPhase.RESTING


def test_a_story_has_a_bound() -> None:
    life = Life("actor", ActorPhase.LOOKING, ACTOR_TRANSITIONS)
    for _ in range(STORY_MAX):
        life.to(ActorPhase.RESTING)
        life.to(ActorPhase.LOOKING)
    with pytest.raises(IllegalTransition) as raised:
        life.to(ActorPhase.RECOVERING)
    assert len(raised.value.story) == STORY_MAX


def test_what_has_ended_stays_so() -> None:
    run = Life("run", RunPhase.PREPARING, RUN_TRANSITIONS)
    run.to(RunPhase.ENDED)
    run.to(RunPhase.ENDED)
    with pytest.raises(IllegalTransition):
        run.to(RunPhase.OPEN)
