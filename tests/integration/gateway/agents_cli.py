"""The real CLI as agents have it, behind a gateway, heard in the agent's words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.translate.translator import Translator
from infra.wire.events import TextDelta, TurnEnded

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeSDKClient


@asynccontextmanager
async def cli_behind(
    folder: Path, home: Path, *, tools: Sequence[str] = ("Read",)
) -> AsyncIterator[ClaudeSDKClient]:
    """A CLI with the session's `model.sock`; retries are few, for the time they take."""
    from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient

    options = ClaudeAgentOptions(
        model="claude-sonnet-4-5-20250929",
        tools=list(tools),
        permission_mode="bypassPermissions",
        setting_sources=[],
        cwd=home,
        include_partial_messages=True,
        env={
            "ANTHROPIC_API_KEY": "placeholder",
            "ANTHROPIC_BASE_URL": "http://api.local",
            "ANTHROPIC_UNIX_SOCKET": str(folder / "model.sock"),
            "CLAUDE_CONFIG_DIR": str(home / "claude"),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "IS_SANDBOX": "1",
            "HOME": str(home),
        },
    )
    async with ClaudeSDKClient(options) as cli:
        yield cli


async def told(cli: ClaudeSDKClient, prompt: str) -> tuple[TurnEnded, str]:
    """One turn: its end, and the text that was told."""
    translator = Translator("prompt")
    said: list[str] = []
    await cli.query(prompt)
    async for message in cli.receive_response():
        for event in translator.read(message):
            if isinstance(event, TextDelta):
                said.append(event.text)
            elif isinstance(event, TurnEnded):
                return event, "".join(said)
    raise AssertionError("the turn had no end")
