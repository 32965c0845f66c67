"""With what settings an agent works on a turn."""

from __future__ import annotations

import pytest

from infra.runtime.identity import new_turn_id
from infra.runtime.settings import Settings
from infra.wire.ids import ConversationKey, TenantId
from infra.wire.turns import TextBlock, TurnRequest
from worker.turns.agent_settings import agent_settings


@pytest.mark.parametrize(
    ("asked", "default", "given"),
    [(None, None, None), (None, "ours", "ours"), ("theirs", "ours", "theirs"), ("x", None, "x")],
)
def test_a_requests_own_system_prompt_goes_before_the_deployments(
    asked: str | None, default: str | None, given: str | None
) -> None:
    settings = Settings.model_validate({"system_prompt": default})
    told = agent_settings(request(asked), settings, settings)
    assert told.system_prompt == given


def test_an_agent_has_ended_its_turn_before_the_grace_is_over() -> None:
    settings = Settings.model_validate({"disconnect_grace_s": 10})
    told = agent_settings(request(None), settings, settings)
    assert 0 < told.interrupt_grace_s < settings.disconnect_grace_s


def request(system_prompt: str | None) -> TurnRequest:
    return TurnRequest(
        turn=new_turn_id(),
        conversation=ConversationKey("c" * 24),
        tenant=TenantId("t" * 20),
        model="m",
        system_prompt=system_prompt,
        prompt=(TextBlock(text="hi"),),
        deadline_s=60,
        idle_timeout_s=60,
    )
