"""How the Agent SDK is configured for a conversation. The reason for each choice is next to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, SessionStore

from agent.memory.past import Past
from infra.wire.link import AgentSettings

MODEL_URL = "http://model.agcluster"
"""The CLI's address of the model. It is never resolved, because the traffic goes to the socket."""

CONNECT_TIMEOUT_S = 60.0
"""Seconds that a CLI may take to answer on a busy machine. The SDK also gives up after this."""

MARK = "AGCLUSTER_CLI"
"""Environment variable that marks a CLI and everything it starts, so that both can be killed."""

_API_TIMEOUT_MS = 300_000
_LINE_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class CliSetup:
    """What an agent's CLI gets in its container."""

    workspace: Path
    model_socket: Path
    config_dir: Path = Path.home() / ".claude"
    """The folder for the CLI's own files, including transcripts."""
    cli: Path | None = None
    """The CLI's program; None for the one bundled with the SDK."""
    temp_dir: Path | None = None
    """The folder for the output of its tools; None for the folder of all temporary files."""
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    """A CLI that has not come up by then is started again."""


def launch_key(settings: AgentSettings) -> tuple[object, ...]:
    """The options that a CLI gets when it starts and cannot change later.

    The model is one of them: a running CLI can change its model, but records that in the
    conversation as if the user had typed a command.
    """
    return (
        settings.model,
        settings.system_prompt,
        settings.tools,
        settings.max_turns,
        settings.max_thinking_tokens,
        tuple(sorted(settings.model_tiers.items())),
    )


def build_options(
    settings: AgentSettings,
    around: CliSetup,
    *,
    store: SessionStore,
    past: Past,
    mark: str,
    proxy: str | None,
    prompt_file: Path | None,
) -> ClaudeAgentOptions:
    """The options of one CLI.

    `prompt_file` contains the system prompt: as an argument it would be limited to 128 KiB and
    visible in the process list. `proxy` is for tools only.
    """
    return ClaudeAgentOptions(
        model=settings.model,
        # Without a file this is the agent's own prompt; the file replaces it. Without a snapshot,
        # because otherwise a conversation would always keep the prompt of its first turn.
        system_prompt={"type": "preset", "preset": "claude_code", "snapshot": False},
        extra_args={"system-prompt-file": str(prompt_file)} if prompt_file else {},
        # Explicit, because the default list lacks Grep and Glob and includes schedulers and
        # messengers.
        tools=list(settings.tools),
        # The isolation replaces permissions; nobody is there to ask.
        permission_mode="bypassPermissions",
        max_turns=settings.max_turns,
        **_thinking(settings),
        cwd=around.workspace,
        cli_path=around.cli,
        include_partial_messages=True,
        # Slash commands and @file in a user's message stay plain text.
        verbatim_prompts=True,
        # Nothing in the workspace configures the agent: no hooks, no CLAUDE.md, no MCP servers.
        setting_sources=[],
        strict_mcp_config=True,
        # Otherwise WebFetch first asks an Anthropic host about every address.
        settings=json.dumps({"skipWebFetchPreflight": True}),
        # The default, 1 MiB, ends the session when the agent reads a photo.
        max_buffer_size=_LINE_MAX_BYTES,
        # Eager, so that the output of a killed CLI is there when the conversation is resumed.
        session_store=store,
        session_store_flush="eager",
        resume=past.session,
        resume_session_at=past.at,
        fork_session=past.at is not None,
        env=_environment(settings, around, mark, proxy),
    )


def _thinking(settings: AgentSettings) -> dict[str, Any]:
    """If unset, the model's default applies."""
    match settings.max_thinking_tokens:
        case None:
            return {}
        case 0:
            return {"thinking": {"type": "disabled"}}
        case tokens:
            return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


def _environment(
    settings: AgentSettings, around: CliSetup, mark: str, proxy: str | None
) -> dict[str, str]:
    values = {
        MARK: mark,
        # The gateway replaces this by the caller's key.
        "ANTHROPIC_API_KEY": "placeholder",
        "ANTHROPIC_BASE_URL": MODEL_URL,
        "ANTHROPIC_UNIX_SOCKET": str(around.model_socket),
        # Without this: 19 s of retries at startup, telemetry, and a second model call per session.
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # Background sub-agents would end in a turn that nobody asked for.
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        # TodoWrite exists only without the newer task tools.
        "CLAUDE_CODE_ENABLE_TASKS": "0",
        # With the default of 10, a user waits for three minutes. Six retries take about 35 s,
        # enough to replace a gateway on a slow machine. If the upstream fails, the gateway ends
        # them after three tries.
        "CLAUDE_CODE_MAX_RETRIES": "6",
        "API_TIMEOUT_MS": str(_API_TIMEOUT_MS),
        # Without this, a request for an older model is silently answered by a newer one.
        "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP": "1",
        "DISABLE_AUTOUPDATER": "1",
        # The SDK looks for transcripts here, whatever HOME is, and ignores others.
        "CLAUDE_CONFIG_DIR": str(around.config_dir),
    }
    if around.temp_dir is not None:
        # In /tmp, tools that fill the folder would lose their own output.
        values["CLAUDE_CODE_TMPDIR"] = str(around.temp_dir)
    for tier, model in settings.model_tiers.items():
        # By default the CLI uses its newest model for a tier, which the gateway may refuse.
        values[f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL"] = model
    if proxy is not None:
        own = "127.0.0.1,localhost,::1," + MODEL_URL.removeprefix("http://")
        for name, value in (("HTTP_PROXY", proxy), ("HTTPS_PROXY", proxy), ("NO_PROXY", own)):
            values[name] = values[name.lower()] = value
    return values
