"""How the Agent SDK is configured for a conversation. The reason for each choice is next to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from claude_agent_sdk import AgentDefinition, ClaudeAgentOptions, SessionStore

from agent.cli.mcp_config import mcp_config, startup_wait
from agent.cli.setup import CLI_SETTINGS, CliSetup, environment, prompt_flag
from agent.memory.past import Past
from infra.wire.agents.plugin import PLUGIN, PLUGIN_FOLDER
from infra.wire.link import AgentSettings

LINE_MAX_BYTES = 64 * 1024 * 1024


def launch_key(settings: AgentSettings) -> tuple[object, ...]:
    """The options that a CLI gets when it starts and cannot change later.

    The model is one of them: a running CLI can change its model, but records that in the
    conversation as if the user had typed a command.
    """
    return (settings.model, settings.system_prompt, *settings.spare_class)


def own_tools(settings: AgentSettings) -> frozenset[str]:
    """The names of the CLI's own tools. It knows the sub-agents' one by two."""
    return frozenset(settings.tools) | {"Agent", "Task"}


def build_options(
    settings: AgentSettings,
    around: CliSetup,
    *,
    store: SessionStore,
    past: Past,
    mark: str,
    proxy: str | None,
    prompt_file: Path | None,
    server_words: Path = Path(os.devnull),
) -> ClaudeAgentOptions:
    """The options of one CLI.

    `prompt_file` contains the system prompt: as an argument it would be limited to 128 KiB and
    visible in the process list. It replaces Claude Code's own, or stands behind it. `proxy` is for
    tools only. `server_words` takes what MCP servers in the container write to standard error.
    """
    return ClaudeAgentOptions(
        model=settings.model,
        # Without a file this is the agent's own prompt; the file replaces it. Without a snapshot,
        # because otherwise a conversation would always keep the prompt of its first turn.
        system_prompt={"type": "preset", "preset": "claude_code", "snapshot": False},
        extra_args={prompt_flag(settings.is_prompt_added): str(prompt_file)} if prompt_file else {},
        # Explicit, because the default list lacks Grep and Glob and includes schedulers and
        # messengers.
        tools=list(settings.tools),
        # The isolation replaces permissions; nobody is there to ask.
        permission_mode="bypassPermissions",
        max_turns=settings.max_turns,
        agents=_sub_agents(settings),
        **_thinking(settings),
        cwd=around.workspace,
        cli_path=around.cli,
        include_partial_messages=True,
        # Slash commands and @file in a user's message stay plain text.
        verbatim_prompts=True,
        # Nothing in the workspace configures the agent: no hooks, no CLAUDE.md, no MCP servers.
        setting_sources=[],
        mcp_servers=mcp_config(settings, words=server_words),
        strict_mcp_config=True,
        **_skills(settings, around),
        settings=CLI_SETTINGS,
        # The default, 1 MiB, ends the session when the agent reads a photo.
        max_buffer_size=LINE_MAX_BYTES,
        # Eager, so that the output of a killed CLI is there when the conversation is resumed.
        session_store=store,
        session_store_flush="eager",
        resume=past.session,
        resume_session_at=past.at,
        fork_session=past.at is not None,
        env=environment(
            settings.model_tiers,
            around,
            mark=mark,
            proxy=proxy,
            variables=settings.environment,
            has_gate=not settings.permissions.is_free,
        )
        | startup_wait(settings),
    )


def _sub_agents(settings: AgentSettings) -> dict[str, AgentDefinition] | None:
    return {
        name: AgentDefinition(
            description=one.description,
            prompt=one.prompt,
            tools=list(one.tools) if one.tools is not None else None,
            model=one.model,
            maxTurns=one.max_turns,
        )
        for name, one in settings.sub_agents.items()
    } or None


def _skills(settings: AgentSettings, around: CliSetup) -> dict[str, Any]:
    """As a plugin: the skills of a workspace's own folder would be read only with its settings,
    which the agent may change. Those that the CLI brings itself are hidden."""
    if not settings.skills:
        return {}
    plugin = str(around.bundle / PLUGIN_FOLDER)
    return {
        "plugins": [{"type": "local", "path": plugin}],
        "skills": [f"{PLUGIN}:{name}" for name in settings.skills],
    }


def _thinking(settings: AgentSettings) -> dict[str, Any]:
    """If unset, the model's default applies."""
    match settings.max_thinking_tokens:
        case None:
            return {}
        case 0:
            return {"thinking": {"type": "disabled"}}
        case tokens:
            return {"thinking": {"type": "enabled", "budget_tokens": tokens}}
