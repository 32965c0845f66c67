"""Starts a CLI as the first act of this process, so that it boots while Python imports the rest.

A CLI takes longer to boot than everything else that an agent does at its start, and before it can
be asked for it takes a fifth of a second to import pydantic, asyncio and the SDK. So the worker
leaves the settings of the coming turn in the socket folder (`infra.wire.link.Launch`), and the CLI
is started with them from here, by the command that the SDK would use (a test compares both).
The code that opens the session (`agent.session`) takes it, or ends it if the turn turns out to need
another one. Anything unusual here means that there is no early CLI, and costs nothing.

Imports the standard library and names only: each millisecond here delays the CLI.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agent.cli.setup import CLI_SETTINGS, CliSetup, environment, prompt_flag, with_note
from infra.wire.socket_folder import LAUNCH_FILE

PROXY = "http://127.0.0.1:3128"
"""The address of our forwarder for the tools, unless its port is taken."""

_LAUNCH_MAX_BYTES = 1024 * 1024
_SDK = "claude_agent_sdk"


class EarlyCli:
    """A running CLI that nobody has spoken to."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        *,
        launch: bytes,
        mark: str,
        proxy: str | None,
        prompt_file: Path | None,
        model_socket: Path,
        spawned_ms: int,
    ) -> None:
        self.process = process
        self.launch = launch
        """The launch file that it was started from."""
        self.mark = mark
        self.proxy = proxy
        self.prompt_file = prompt_file
        self.model_socket = model_socket
        """Where it looks for its model."""
        self.spawned_ms = spawned_ms

    def end(self) -> None:
        """Kill it and wait until it is gone. Blocks for some milliseconds."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait()
        self.forget_prompt()

    def forget_prompt(self) -> None:
        """Remove the file with the system prompt, which a connected CLI has read."""
        if self.prompt_file is not None:
            self.prompt_file.unlink(missing_ok=True)


def start_early(folder: Path, around: CliSetup, *, egress_socket: Path) -> EarlyCli | None:
    """The CLI of the launch file in that folder; None without one, or if it cannot be started."""
    try:
        launch = _taken(folder / LAUNCH_FILE)
        settings = json.loads(launch)["settings"]
        return _started(launch, settings, around, PROXY if egress_socket.is_socket() else None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _taken(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        path.unlink()
        launch = file.read(_LAUNCH_MAX_BYTES + 1)
    if len(launch) > _LAUNCH_MAX_BYTES:
        raise ValueError("a launch file of this size is not ours")
    return launch


def _started(
    launch: bytes, settings: Mapping[str, Any], around: CliSetup, proxy: str | None
) -> EarlyCli:
    mark = os.urandom(16).hex()
    has_gate = _has_gate(settings.get("permissions", {}))
    if has_gate:
        # Nobody listens there yet. The CLI does not ask the model before it is asked itself.
        socket = (around.temp_dir or Path("/tmp")) / f"agcluster-{mark}.sock"
        around = replace(around, model_socket=socket)
    package = _package()
    prompt_file = _prompt_file(settings.get("system_prompt"), around, mark)
    spawned_ms = time.time_ns() // 1_000_000
    process = subprocess.Popen(
        command(around.cli or package / "_bundled" / "claude", settings, prompt_file),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=around.workspace,
        env={
            **{name: value for name, value in os.environ.items() if name != "CLAUDECODE"},
            "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
            **environment(
                settings.get("model_tiers", {}),
                around,
                mark=mark,
                proxy=proxy,
                variables=settings.get("environment", {}),
                has_gate=has_gate,
            ),
            "CLAUDE_AGENT_SDK_VERSION": _version(package),
            "CLAUDE_CODE_SDK_READS_SESSION_STATE": "1",
            "PWD": str(around.workspace),
        },
    )
    return EarlyCli(
        process,
        launch=launch,
        mark=mark,
        proxy=proxy,
        prompt_file=prompt_file,
        model_socket=around.model_socket,
        spawned_ms=spawned_ms,
    )


def _has_gate(permissions: Mapping[str, Any]) -> bool:
    """Whether its calls may be held back: `Permissions.is_free`, the other way round."""
    is_usual = permissions.get("mode", "default") == "default"
    return not is_usual or bool(permissions.get("ask") or permissions.get("deny"))


def _package() -> Path:
    spec = find_spec(_SDK)
    if spec is None or spec.origin is None:
        raise LookupError(_SDK)
    return Path(spec.origin).parent


def _version(package: Path) -> str:
    """The SDK's version, which it tells its CLI. The module has nothing but this."""
    return (package / "_version.py").read_text(encoding="utf-8").split('"')[-2]


def _prompt_file(prompt: str | None, around: CliSetup, mark: str) -> Path | None:
    if prompt is None:
        return None
    path = (around.temp_dir or Path("/tmp")) / f"agcluster-{mark}.txt"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8", errors="replace") as file:
        file.write(with_note(prompt))
    return path


def command(cli: Path, settings: Mapping[str, Any], prompt_file: Path | None) -> list[str]:
    """The SDK's command for `agent.cli.options.build_options` without a past."""
    max_turns, thinking = settings.get("max_turns"), settings.get("max_thinking_tokens")
    return [
        *(str(cli), "--output-format", "stream-json", "--verbose"),
        *("--tools", ",".join(settings["tools"])),
        *(("--max-turns", str(max_turns)) if max_turns else ()),
        *("--model", settings["model"]),
        *("--permission-mode", "bypassPermissions"),
        *("--settings", CLI_SETTINGS),
        *("--include-partial-messages", "--strict-mcp-config", "--session-mirror"),
        "--setting-sources=",
        *_prompt(settings, prompt_file),
        *_thinking(thinking),
        *("--input-format", "stream-json"),
    ]


def _prompt(settings: Mapping[str, Any], file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    return (f"--{prompt_flag(bool(settings.get('is_prompt_added')))}", str(file))


def _thinking(tokens: int | None) -> tuple[str, ...]:
    if tokens is None:
        return ()
    return ("--max-thinking-tokens", str(tokens)) if tokens else ("--thinking", "disabled")
