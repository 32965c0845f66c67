"""The real CLI of the Agent SDK behind the gateway: what it sends is what we let through."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from infra.runtime.settings import load_settings
from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import KEY, Host
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

DEADLINE_S = 120.0


async def ask(
    folder: Path,
    home: Path,
    prompt: str,
    *,
    model: str = "claude-sonnet-4-5-20250929",
    env: Mapping[str, str] | None = None,
) -> tuple[str, bool]:
    """One turn of a CLI that holds a placeholder: the answer, and whether it is an error."""
    from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKError, ResultMessage, query

    options = ClaudeAgentOptions(
        model=model,
        tools=["Read", "Task"],
        setting_sources=[],
        cwd=home,
        env={
            "ANTHROPIC_API_KEY": "placeholder",
            "ANTHROPIC_BASE_URL": "http://api.local",
            "ANTHROPIC_UNIX_SOCKET": str(folder / "model.sock"),
            "CLAUDE_CONFIG_DIR": str(home / "claude"),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "HOME": str(home),
            **(env or {}),
        },
    )
    told = ""
    try:
        async with asyncio.timeout(DEADLINE_S):
            async for message in query(prompt=prompt, options=options):
                if isinstance(message, ResultMessage):
                    told = message.result or ""
    except ClaudeSDKError as error:
        return str(error), True
    return told, False


async def test_it_talks_to_the_model_with_the_callers_key(
    host: Host, model: RunningModel, tmp_path: Path
) -> None:
    need("sdk")
    folder = await host.open_session()
    await host.open_turn()
    assert await ask(folder, tmp_path, "key") == (f"x-api-key={KEY} auth=None", False)
    meter = await host.close_turn()
    assert meter.calls == 1
    assert meter.usage.input_tokens > 0
    assert {entry.path for entry in model.journal.entries} == {"/v1/messages"}


@pytest.mark.parametrize("prompt", ["error 401", "error 429 retry-after 60"])
async def test_it_gives_up_at_once_where_a_retry_is_pointless(
    host: Host, model: RunningModel, tmp_path: Path, prompt: str
) -> None:
    """Without `x-should-retry: false` a wrong key is tried for three minutes."""
    need("sdk")
    folder = await host.open_session()
    await host.open_turn()
    begun = time.monotonic()
    _, is_error = await ask(folder, tmp_path, prompt)
    assert is_error
    assert len(model.journal.entries) == 1
    assert time.monotonic() - begun < DEADLINE_S / 2


async def test_a_turn_and_its_sub_agents_call_only_models_that_are_open(
    host: Host, model: RunningModel, tmp_path: Path
) -> None:
    """By itself the CLI asks for its newest models, even in the place of the one it was given."""
    need("sdk")
    from claude_agent_sdk import InMemorySessionStore

    from agent.cli.options import build_options
    from agent.cli.setup import CliSetup
    from agent.memory.past import Past
    from infra.wire.link import AgentSettings

    settings = load_settings({}, env_file=None)
    around = CliSetup(tmp_path, tmp_path / "m.sock", tmp_path / "c")
    env = build_options(
        AgentSettings(model="m", tools=(), model_tiers=settings.model_tiers),
        around,
        store=InMemorySessionStore(),
        past=Past(),
        mark="",
        proxy=None,
        prompt_file=None,
    ).env
    env = {name: env[name] for name in env if name.endswith(("_MODEL", "_REMAP"))}
    asked = "claude-opus-4-1-20250805"
    folder = await host.open_session()
    await host.open_turn(models=settings.models_of_turn(asked))
    call = {"description": "d", "prompt": "echo x", "subagent_type": "general-purpose"}
    tiers: list[dict[str, str]] = [{}, {"model": "haiku"}, {"model": "sonnet"}]
    calls = " then ".join("tool Agent " + json.dumps(call | tier) for tier in tiers)
    answer = await ask(folder, tmp_path, f"{calls} then echo done", model=asked, env=env)
    assert answer == ("done", False)
    meter = await host.close_turn()
    assert meter.models[asked].calls == 5
    assert set(meter.models) == {
        asked,
        "claude-sonnet-4-5-20250929",
        "claude-haiku-4-5-20251001",
    }


async def test_it_fails_cleanly_between_turns(host: Host, tmp_path: Path) -> None:
    need("sdk")
    folder = await host.open_session()
    await host.open_turn()
    await host.close_turn()
    told, is_error = await ask(folder, tmp_path, "echo hi")
    assert is_error
    assert "403" in told


@pytest.mark.parametrize("asked", ["claude-opus-5-5", "claude-sonnet-4-5[1m]"])
async def test_all_that_the_cli_asks_for_by_itself_is_open(
    host: Host, model: RunningModel, tmp_path: Path, asked: str
) -> None:
    """Fields, kinds of tools and betas are listed; a CLI that asks for more must not get less
    unnoticed."""
    need("sdk")
    folder = await host.open_session()
    await host.open_turn()
    straight = {"ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_UNIX_SOCKET": ""}
    for env in (straight, {}):
        assert await ask(folder, tmp_path, "echo ok", model=asked, env=env) == ("ok", False)
    await host.close_turn()
    first, second = (
        entry.headers["anthropic-beta"].split(",")
        for entry in model.journal.entries
        if entry.path == "/v1/messages"
    )
    assert sorted(first) == sorted(second)
