"""A spent budget and an unknown profile are refused before anything is started."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from infra.runtime.identity import conversation_key, tenant_id
from tests.fakes.running_api import KEY, SETTINGS, running_api
from tests.integration.api.test_refusals import error_of

assert SETTINGS.secret is not None
SECRET = SETTINGS.secret.get_secret_value().encode()
TENANT = tenant_id(SECRET, KEY)
PROFILES = {"egress_profiles": {"pip": {"policy": "allowlist", "allow": ["pypi.org"]}}}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_tenant_that_has_spent_its_day_is_told_when_the_next_begins(stream: bool) -> None:
    async with running_api(settings={"tenant_budget_tokens": 100}) as api:
        day = datetime.now(UTC).strftime("%Y%m%d")
        key = api.store.keys.tenant_usage_of(TENANT, day)
        await api.store.redis.hset(key, "spent_tokens", "100")  # type: ignore[misc]
        answer = await api.chat("echo hello", stream=stream)
    assert answer.status_code == 402
    error = error_of(answer)
    assert (error["code"], error["type"]) == ("budget_exceeded", "insufficient_quota")
    assert 0 < int(answer.headers["retry-after"]) <= 86400
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("headers", "metadata", "param"),
    [
        ({"x-agcluster-egress-profile": "all"}, {}, "X-AgCluster-Egress-Profile"),
        ({}, {"egress_profile": "all"}, "metadata.egress_profile"),
        ({}, {"egress_profile": 7}, "metadata.egress_profile"),
    ],
)
async def test_a_profile_that_is_not_configured_is_400(
    headers: dict[str, str], metadata: dict[str, Any], param: str
) -> None:
    async with running_api(settings=PROFILES) as api:
        answer = await api.chat("echo hello", headers=headers, metadata=metadata)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


@pytest.mark.parametrize(
    ("headers", "metadata"),
    [({"x-agcluster-egress-profile": "pip"}, {}), ({}, {"egress_profile": "pip"})],
)
async def test_a_profile_that_is_asked_for_stays_with_its_conversation(
    headers: dict[str, str], metadata: dict[str, Any]
) -> None:
    named = {"x-conversation-id": "thread"}
    async with running_api(settings=PROFILES) as api:
        first = await api.chat("echo hello", headers=headers | named, metadata=metadata)
        second = await api.chat("echo again", headers=named)
        key = api.store.keys.conversation(conversation_key(SECRET, TENANT, "thread"))
        [held] = await api.store.redis.hmget(key, ["options"])  # type: ignore[misc]
    assert (first.status_code, second.status_code, held) == (
        200,
        200,
        b'{"egress_profile":"\\"pip\\""}',
    )
