"""While the model's service does not answer, no container is started for a turn."""

from __future__ import annotations

import time

import pytest

from infra.wire.errors import ErrorCode
from infra.wire.gateway import UpstreamHealth
from infra.wire.model.upstream_cause import UpstreamCause
from infra.wire.states import TurnState
from tests.fakes.worker_stage import Stage, conversation
from worker.gateway_client import registrar

pytestmark = pytest.mark.slow

C = conversation("one")
FINE = UpstreamHealth(host="api.example.org", since_ms=1)
AWAY = UpstreamHealth(host="api.example.org", cause=UpstreamCause.NAME, since_ms=1)
UNKNOWN = UpstreamHealth(host="api.example.org")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrar, "UPSTREAM_PATIENCE_S", 0.2)
    monkeypatch.setattr(registrar, "UPSTREAM_PAUSE_S", 0.05)


async def known(stage: Stage, health: UpstreamHealth) -> None:
    """The worker has heard this of its gateway."""
    stage.gateway.upstream_health = health
    for worker in stage.workers:
        await worker.process.parts.gateway.check()


async def test_a_turn_says_which_host_and_why_and_nothing_is_started(stage: Stage) -> None:
    await stage.worker()
    await known(stage, AWAY)
    end = await stage.ended(await stage.ask(C, "echo never"))
    assert end.state is TurnState.FAILED
    assert end.error is not None
    assert end.error.code is ErrorCode.UPSTREAM_UNREACHABLE
    assert end.error.message == (
        "The model's service (api.example.org) could not be reached: its name is not known."
    )
    assert stage.agents.get(C, []) == []


async def test_the_next_turn_runs_as_soon_as_it_answers(stage: Stage) -> None:
    await stage.worker()
    await known(stage, AWAY)
    await stage.ended(await stage.ask(C, "echo never"))
    stage.gateway.upstream_health = FINE
    end = await stage.ended(await stage.ask(C, "echo again"))
    assert end.state is TurnState.DONE


async def test_a_call_that_was_lost_is_no_outage(stage: Stage) -> None:
    """The worker has heard that it is away, and asks: it is back."""
    await stage.worker()
    await known(stage, AWAY)
    stage.gateway.upstream_health = FINE
    assert (await stage.ended(await stage.ask(C, "echo hello"))).state is TurnState.DONE


async def test_a_gateway_that_does_not_know_yet_is_asked_first(stage: Stage) -> None:
    await stage.worker()
    await known(stage, UNKNOWN)
    stage.gateway.upstream_health = AWAY
    end = await stage.ended(await stage.ask(C, "echo never"))
    assert end.error is not None
    assert end.error.code is ErrorCode.UPSTREAM_UNREACHABLE
    assert stage.agents.get(C, []) == []


async def test_an_old_fault_is_asked_about_once_and_a_new_one_again(stage: Stage) -> None:
    """Nobody waits for a service that has been away for minutes."""
    await stage.worker()
    await known(stage, AWAY)
    await stage.ended(await stage.ask(C, "echo never"))
    assert stage.gateway.upstream_asks == 1
    await known(stage, AWAY.model_copy(update={"since_ms": int(time.time() * 1000)}))
    await stage.ended(await stage.ask(C, "echo never"))
    assert stage.gateway.upstream_asks > 2


async def test_an_agent_that_runs_goes_on(stage: Stage) -> None:
    """Its CLI tries again by itself for a while."""
    await stage.worker()
    await stage.ended(await stage.ask(C, "echo one"))
    await known(stage, AWAY)
    turn = await stage.ask(C, "echo two", history=("echo one",))
    assert (await stage.ended(turn)).state is TurnState.DONE
