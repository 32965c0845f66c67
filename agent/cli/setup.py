"""What every CLI of this agent gets: its folders, its environment.

Imports the standard library and names only, because `agent.cli.early` needs it before anything
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.wire.agents.plugin import BUNDLE_AT

MODEL_URL = "http://model.agcluster"
"""The CLI's address of the model. It is never resolved, because the traffic goes to the socket."""

CONNECT_TIMEOUT_S = 60.0
"""Seconds that a CLI may take to answer on a busy machine. The SDK also gives up after this."""

MARK = "AGCLUSTER_CLI"
"""Environment variable that marks a CLI and everything it starts, so that both can be killed."""

# Otherwise WebFetch first asks an Anthropic host about every address.
CLI_SETTINGS = '{"skipWebFetchPreflight": true, "disableSkillShellExecution": true}'

_API_TIMEOUT_MS = 300_000


@dataclass(frozen=True)
class CliSetup:
    """What an agent's CLI gets in its container."""

    workspace: Path
    model_socket: Path
    config_dir: Path = Path.home() / ".claude"
    """The folder for the CLI's own files, including transcripts."""
    cli: Path | None = None
    """The CLI's program; None for the one bundled with the SDK."""
    bundle: Path = Path(BUNDLE_AT)
    """The skills and files of its agent."""
    temp_dir: Path | None = None
    """The folder for the output of its tools; None for the folder of all temporary files."""
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    """A CLI that has not come up by then is started again."""


OUTPUTS_NOTE = (
    "Files that are for the user belong in the folder `outputs` of the working directory: they are "
    "shown to the user first."
)
"""Stands behind each system prompt that is not Claude Code's own. Always the same, so that it costs
no cache. Claude Code's own has no place for it: with an addition it begins in another way, which a
spare that gets another prompt later would keep."""


def with_note(prompt: str) -> str:
    """A system prompt as the CLI gets it."""
    return f"{prompt}\n\n{OUTPUTS_NOTE}"


def prompt_flag(is_added: bool) -> str:
    """The CLI's option for a file with a system prompt."""
    return "append-system-prompt-file" if is_added else "system-prompt-file"


def environment(
    model_tiers: Mapping[str, str],
    around: CliSetup,
    *,
    mark: str,
    proxy: str | None,
    variables: Mapping[str, str],
    has_gate: bool = False,
) -> dict[str, str]:
    """The variables that a CLI gets in addition to ours. `proxy` is for its tools only, and so are
    the agent's own `variables`, which replace none of the others. `has_gate`: calls of its own
    tools may be held back."""
    values = {
        **variables,
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
        # By default, the first turn waits for half a minute for a server that does not answer.
        "MCP_TIMEOUT": "10000",
        "CLAUDE_CODE_MCP_STARTUP_WAIT_MS": "3000",
        # A client's functions keep their names (`agent.cli.offers`).
        "CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1",
        # It promises the model files that outlive the session, in a folder that does not: a resumed
        # session has another one, whose name in the prompt would cost the model's prompt cache.
        "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
        # Otherwise a CLI that is opened on a call that waits for its result calls the model before
        # anybody has asked it anything.
        "CLAUDE_CODE_DISABLE_DEFERRED_TOOL_RESUME": "1",
        # Each call says what it is for: the gateway bounds the text of the answer, and nothing of
        # sub-agents and compactions (`worker.gateway.model.spoken_text`).
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
        # The SDK looks for transcripts here, whatever HOME is, and ignores others.
        "CLAUDE_CONFIG_DIR": str(around.config_dir),
    }
    if has_gate:
        # Of an answer that was not streamed, the CLI makes calls that it was told to hold back.
        values["CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK"] = "1"
    if around.temp_dir is not None:
        # In /tmp, tools that fill the folder would lose their own output.
        values["CLAUDE_CODE_TMPDIR"] = str(around.temp_dir)
    for tier, model in model_tiers.items():
        # By default the CLI uses its newest model for a tier, which the gateway may refuse.
        values[f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL"] = model
    if proxy is not None:
        own = "127.0.0.1,localhost,::1," + MODEL_URL.removeprefix("http://")
        for name, value in (("HTTP_PROXY", proxy), ("HTTPS_PROXY", proxy), ("NO_PROXY", own)):
            values[name] = values[name.lower()] = value
    return values
