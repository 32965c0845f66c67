"""How the Agent SDK is set up for a conversation. Every choice here has its reason beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, SessionStore

from agent.memory.past import Past
from infra.wire.link import AgentSettings

MODEL_URL = "http://model.agcluster"
"""Where the CLI believes the model is. Nothing resolves it: the traffic goes to the socket."""

CONNECT_TIMEOUT_S = 60.0
"""On a busy machine a CLI may take so long to answer; the SDK gives up after it too."""

MARK = "AGCLUSTER_CLI"
"""Environment variable that marks a CLI and everything it starts, so that both can be killed."""

_API_TIMEOUT_MS = 300_000
_LINE_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class CliSetup:
    """What the CLI of an agent is given in its isolation."""

    workspace: Path
    model_socket: Path
    config_dir: Path = Path.home() / ".claude"
    """Where the CLI keeps its own files, transcripts among them."""
    cli: Path | None = None
    """The CLI's program; None: the one that came with the SDK."""
    temp_dir: Path | None = None
    """Where it keeps what its tools are printing; None: where all temporary files are."""
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    """One that has not come up by then is started again."""


def launch_key(settings: AgentSettings) -> tuple[object, ...]:
    """What a CLI is told at its start and cannot change later.

    The model is in it: a running CLI takes another one, but notes that in the conversation as if
    the user had typed a command.
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
    """Options of one CLI.

    `prompt_file` holds the system prompt: as an argument it could not be longer than 128 KiB and
    would stand in the process list. `proxy` is for tools only.
    """
    return ClaudeAgentOptions(
        model=settings.model,
        # Without a file this is the agent's own prompt; the file replaces it. Not snapshotted, or
        # a conversation would keep the prompt of its first turn for good.
        system_prompt={"type": "preset", "preset": "claude_code", "snapshot": False},
        extra_args={"system-prompt-file": str(prompt_file)} if prompt_file else {},
        # Explicit: the default list lacks Grep and Glob and has schedulers and messengers.
        tools=list(settings.tools),
        # The isolation is the permission; there is nobody to ask.
        permission_mode="bypassPermissions",
        max_turns=settings.max_turns,
        **_thinking(settings),
        cwd=around.workspace,
        cli_path=around.cli,
        include_partial_messages=True,
        # Slash commands and @file in a user's text stay text.
        verbatim_prompts=True,
        # Nothing in the workspace configures the agent: no hooks, no CLAUDE.md, no MCP servers.
        setting_sources=[],
        strict_mcp_config=True,
        # WebFetch would ask a host of Anthropic's about every address first.
        settings=json.dumps({"skipWebFetchPreflight": True}),
        # The default, 1 MiB, ends the session when the agent reads a photo.
        max_buffer_size=_LINE_MAX_BYTES,
        # Eager: what a killed CLI had said is there when the conversation is resumed.
        session_store=store,
        session_store_flush="eager",
        resume=past.session,
        resume_session_at=past.at,
        fork_session=past.at is not None,
        env=_environment(settings, around, mark, proxy),
    )


def _thinking(settings: AgentSettings) -> dict[str, Any]:
    """Unset leaves it to the model's default."""
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
        # The gateway puts the caller's key in place of this.
        "ANTHROPIC_API_KEY": "placeholder",
        "ANTHROPIC_BASE_URL": MODEL_URL,
        "ANTHROPIC_UNIX_SOCKET": str(around.model_socket),
        # Without it: 19 s of retries at start, telemetry, and a second model call a session.
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # Sub-agents in the background would end in a turn nobody asked for.
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        # TodoWrite exists only without the newer task tools.
        "CLAUDE_CODE_ENABLE_TASKS": "0",
        # The default, 10, keeps a user waiting for three minutes. Four last some 9 s, in which a
        # gateway is restarted; where it is the upstream that fails, the gateway ends them earlier.
        "CLAUDE_CODE_MAX_RETRIES": "4",
        "API_TIMEOUT_MS": str(_API_TIMEOUT_MS),
        # Without it a request for an older model is silently answered by a newer, other one.
        "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP": "1",
        "DISABLE_AUTOUPDATER": "1",
        # The SDK looks for transcripts here whatever HOME says, and drops what lies elsewhere.
        "CLAUDE_CONFIG_DIR": str(around.config_dir),
    }
    if around.temp_dir is not None:
        # In /tmp, tools that fill it would lose what they print.
        values["CLAUDE_CODE_TMPDIR"] = str(around.temp_dir)
    for tier, model in settings.model_tiers.items():
        # The CLI's own idea of a tier is its newest model, which the gateway may not let through.
        values[f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL"] = model
    if proxy is not None:
        own = "127.0.0.1,localhost,::1," + MODEL_URL.removeprefix("http://")
        for name, value in (("HTTP_PROXY", proxy), ("HTTPS_PROXY", proxy), ("NO_PROXY", own)):
            values[name] = values[name.lower()] = value
    return values
