"""What callers send for the MCP servers of the agent that they ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.runtime.sealing import SealContext, Sealed, Sealer
from infra.wire.errors import KeyNotOpened
from infra.wire.mcp.secrets import CallerSecrets
from infra.wire.turns import TurnRequest
from tests.fakes.running_api import MODEL, SETTINGS, RunningApi, running_api

CANARY = "gh-canary-55e1"
PROFILE = """
mcp_servers:
  github:
    url: https://mcp.example.com/
    headers: {Authorization: "Bearer ${caller:GITHUB_TOKEN}"}
"""


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "coder.yaml").write_text(PROFILE)
    (tmp_path / "plain.yaml").write_text("description: none\n")
    return {"agents_dir": tmp_path}


async def asked(
    api: RunningApi, prompt: str, *, model: str = "coder", **headers: str
) -> TurnRequest:
    answer = await api.chat(prompt, model=model, headers=headers)
    assert answer.status_code == 200, answer.text
    return api.worker.requests[-1]


async def sent(api: RunningApi, prompt: str, value: str) -> CallerSecrets:
    request = await asked(api, prompt, **{"X-AgCluster-MCP-GITHUB-TOKEN": value})
    found = request.turn_options.mcp_secrets
    assert found is not None
    return found


async def test_they_travel_sealed_for_their_turn(settings: dict[str, object]) -> None:
    assert SETTINGS.secret is not None
    secret = SETTINGS.secret.get_secret_value().encode()
    async with running_api(settings=settings) as api:
        found = await sent(api, "hi", CANARY)
        request = api.worker.requests[-1]
        record = await api.store.turns.get(request.turn)
    assert record is not None
    assert found.names == ("GITHUB_TOKEN",)
    context = SealContext(request.tenant, request.conversation, request.turn, record.key_expires_ms)
    opened = Sealer(secret, Sealed.MCP_SECRETS).open(found.sealed, context, now_ms=0)
    assert json.loads(opened) == {"GITHUB_TOKEN": CANARY}
    # A worker that gave it to a gateway as the key of the turn would send it to the model.
    with pytest.raises(KeyNotOpened):
        Sealer(secret).open(found.sealed, context, now_ms=0)
    assert CANARY not in request.model_dump_json()


async def test_other_secrets_have_another_version(settings: dict[str, object]) -> None:
    async with running_api(settings=settings) as api:
        first = await sent(api, "one", "a")
        assert (await sent(api, "two", "a")).version == first.version
        assert (await sent(api, "three", "b")).version != first.version


@pytest.mark.parametrize("model", ["plain", MODEL])
async def test_what_no_server_asks_for_goes_no_further(
    settings: dict[str, object], model: str
) -> None:
    async with running_api(settings=settings) as api:
        request = await asked(api, "hi", model=model, **{"X-AgCluster-MCP-GITHUB-TOKEN": CANARY})
        assert request.turn_options.mcp_secrets is None
        request = await asked(api, "again", **{"X-AgCluster-MCP-OTHER": CANARY})
        assert request.turn_options.mcp_secrets is None


@pytest.mark.parametrize("value", ["x" * 4001, "two\tparts"])
async def test_what_cannot_stand_in_a_header_is_a_400(
    settings: dict[str, object], value: str
) -> None:
    async with running_api(settings=settings) as api:
        headers = {"X-AgCluster-MCP-GITHUB-TOKEN": value}
        answer = await api.chat("hi", model="coder", headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "X-AgCluster-MCP-GITHUB-TOKEN"
    assert value not in answer.text


async def test_the_same_words_with_another_secret_are_another_request(
    settings: dict[str, object],
) -> None:
    once = {"Idempotency-Key": "once"}
    async with running_api(settings=settings) as api:
        turns = [
            (await asked(api, "hi", **once, **{"X-AgCluster-MCP-GITHUB-TOKEN": value})).turn
            for value in ("a", "a", "b")
        ]
    assert turns[0] == turns[1] != turns[2]
