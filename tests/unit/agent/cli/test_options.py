"""How the SDK is set up; each assertion here guards a measured trap."""

from __future__ import annotations

from pathlib import Path

from claude_agent_sdk import ClaudeAgentOptions, InMemorySessionStore

from agent.cli.options import build_options, launch_key
from agent.cli.setup import CliSetup
from agent.memory.past import Past
from infra.wire.link import AgentSettings

AROUND = CliSetup(workspace=Path("/workspace"), model_socket=Path("/run/agcluster/model.sock"))
SETTINGS = AgentSettings(model="m", tools=("Bash", "Task"))


def options(
    settings: AgentSettings = SETTINGS,
    *,
    past: Past | None = None,
    proxy: str | None = None,
    prompt_file: Path | None = None,
) -> ClaudeAgentOptions:
    return build_options(
        settings,
        AROUND,
        store=InMemorySessionStore(),
        past=past or Past(),
        mark="mark",
        proxy=proxy,
        prompt_file=prompt_file,
    )


def test_nothing_outside_configures_the_agent() -> None:
    made = options()
    assert made.setting_sources == []
    assert made.strict_mcp_config
    assert made.verbatim_prompts
    assert made.tools == ["Bash", "Task"]
    assert made.permission_mode == "bypassPermissions"


def test_the_model_is_reached_by_the_socket_with_a_placeholder() -> None:
    env = options().env
    assert env["ANTHROPIC_UNIX_SOCKET"] == "/run/agcluster/model.sock"
    assert env["ANTHROPIC_API_KEY"] == "placeholder"
    assert env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"


def test_tools_get_a_proxy_only_where_there_is_one_and_the_model_never() -> None:
    assert not {name for name in options().env if "proxy" in name.lower()}
    env = options(proxy="http://127.0.0.1:3128").env
    assert env["HTTPS_PROXY"] == env["https_proxy"] == "http://127.0.0.1:3128"
    assert "model.agcluster" in env["NO_PROXY"]


def test_a_system_prompt_is_handed_over_as_a_file_and_not_kept_for_good() -> None:
    made = options(prompt_file=Path("/tmp/x"))
    assert made.extra_args == {"system-prompt-file": "/tmp/x"}
    assert isinstance(made.system_prompt, dict)
    assert made.system_prompt.get("snapshot") is False
    assert options().extra_args == {}


def test_thinking_is_left_to_the_model_unless_it_is_set() -> None:
    assert options().thinking is None
    off = SETTINGS.model_copy(update={"max_thinking_tokens": 0})
    assert options(off).thinking == {"type": "disabled"}
    some = SETTINGS.model_copy(update={"max_thinking_tokens": 2048})
    assert options(some).thinking == {"type": "enabled", "budget_tokens": 2048}


def test_what_needs_another_cli() -> None:
    """Another model among it: told to a running one, it is written into the conversation."""
    for change in ({"model": "other"}, {"tools": ()}, {"system_prompt": "x"}, {"max_turns": 1}):
        assert launch_key(SETTINGS) != launch_key(SETTINGS.model_copy(update=change))


def test_going_back_makes_a_session_of_its_own() -> None:
    """A fork: the session that was left stays as it is until the new one has its first turn."""
    back = options(past=Past("s", at="e"))
    assert (back.resume, back.resume_session_at, back.fork_session) == ("s", "e", True)
    on = options(past=Past("s"))
    assert (on.resume, on.resume_session_at, on.fork_session) == ("s", None, False)


def test_the_sdk_and_the_cli_look_for_transcripts_in_one_place() -> None:
    """Where they differ the SDK drops every entry of the transcript, with a line in its log."""
    assert options().env["CLAUDE_CONFIG_DIR"] == str(AROUND.config_dir)
