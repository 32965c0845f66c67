"""The real CLI of the Agent SDK behind the gateway: what it sends is what we let through."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.fakes.scripted_model import RunningModel
from tests.integration.gateway.conftest import KEY, Host
from tests.parts import need

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(180)]

DEADLINE_S = 120.0


async def ask(folder: Path, home: Path, prompt: str) -> tuple[str, bool]:
    """One turn of a CLI that holds a placeholder: the answer, and whether it is an error."""
    from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKError, ResultMessage, query

    options = ClaudeAgentOptions(
        model="claude-sonnet-4-5-20250929",
        tools=["Read"],
        setting_sources=[],
        cwd=home,
        env={
            "ANTHROPIC_API_KEY": "placeholder",
            "ANTHROPIC_BASE_URL": "http://api.local",
            "ANTHROPIC_UNIX_SOCKET": str(folder / "model.sock"),
            "CLAUDE_CONFIG_DIR": str(home / "claude"),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "HOME": str(home),
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


async def test_it_fails_cleanly_between_turns(host: Host, tmp_path: Path) -> None:
    need("sdk")
    folder = await host.open_session()
    await host.open_turn()
    await host.close_turn()
    told, is_error = await ask(folder, tmp_path, "echo hi")
    assert is_error
    assert "403" in told
