"""A CLI is started before everything else, exactly as the SDK would start it."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from claude_agent_sdk import InMemorySessionStore
from claude_agent_sdk._internal.transport.subprocess_cli import SubprocessCLITransport

from agent.cli.early import PROXY, EarlyCli, start_early
from agent.cli.options import build_options
from agent.cli.setup import MARK, CliSetup, with_note
from agent.forwarder import PORT
from agent.memory.past import Past
from infra.wire.agents.permissions import Permissions
from infra.wire.agents.sub_agent import SubAgent
from infra.wire.link import AgentSettings, Launch
from infra.wire.socket_folder import LAUNCH_FILE

PLAIN = AgentSettings(model="m", tools=("Bash", "Task"))
TELLS_ITS_START = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([sys.argv, dict(os.environ), os.getcwd()]), flush=True)
sys.stdin.read()
"""


class Started:
    """Starts early CLIs in a folder, and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.around = CliSetup(folder, folder / "model.sock", cli=folder / "cli", temp_dir=folder)
        self.around.cli.write_text(TELLS_ITS_START)  # type: ignore[union-attr]
        self.around.cli.chmod(0o700)  # type: ignore[union-attr]
        self._clis: list[EarlyCli] = []

    def start(self, launch: bytes | AgentSettings) -> EarlyCli | None:
        raw = launch if isinstance(launch, bytes) else Launch(settings=launch).encode()
        (self.folder / LAUNCH_FILE).write_bytes(raw)
        return self.start_from_what_is_there()

    def start_from_what_is_there(self) -> EarlyCli | None:
        egress = self.folder / "egress.sock"
        cli = start_early(self.folder, self.around, egress_socket=egress)
        self._clis += [cli] if cli else []
        return cli

    def end(self) -> None:
        for cli in self._clis:
            cli.end()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    one = Started(tmp_path)
    yield one
    one.end()


def told_by(early: EarlyCli) -> Any:
    assert early.process.stdout is not None
    return json.loads(early.process.stdout.readline())


@pytest.mark.parametrize(
    "settings",
    [
        PLAIN,
        AgentSettings(model="m", tools=()),
        AgentSettings(model="m", tools=("Bash",), system_prompt="You are Ada.\n"),
        AgentSettings(model="m", tools=("Bash",), model_tiers={"haiku": "h", "opus": "o"}),
        AgentSettings(model="m", tools=("Bash",), max_turns=7, max_thinking_tokens=0),
        AgentSettings(model="m", tools=("Bash",), max_thinking_tokens=2048),
        AgentSettings(model="m", tools=("Bash",), permissions=Permissions(mode="ask")),
        AgentSettings(
            model="m",
            tools=("Task",),
            system_prompt="You are kind.",
            is_prompt_added=True,
            environment={"GREETING": "good day"},
            sub_agents={"finder": SubAgent(description="Finds.", prompt="Find.")},
        ),
    ],
    ids=[
        "plain",
        "no tools",
        "system prompt",
        "tiers",
        "no thinking",
        "thinking",
        "permissions",
        "a profile's",
    ],
)
async def test_it_is_started_just_as_the_sdk_starts_one(
    started: Started, settings: AgentSettings
) -> None:
    """Fails when a newer SDK starts its CLI in another way."""
    early = started.start(settings)
    assert early is not None
    options = build_options(
        settings,
        replace(started.around, model_socket=early.model_socket),
        store=InMemorySessionStore(),
        past=Past(),
        mark=early.mark,
        proxy=early.proxy,
        prompt_file=early.prompt_file,
    )
    sdk = SubprocessCLITransport(prompt="", options=options)
    await sdk.connect()
    told = await anext(aiter(cast(Any, sdk)._stdout_stream))
    await sdk.close()

    ours = told_by(early)
    assert ours == json.loads(told)
    assert ours[1][MARK] == early.mark


def test_the_launch_file_is_read_once(started: Started) -> None:
    early = started.start(PLAIN)
    assert early is not None
    assert Launch.model_validate_json(early.launch).settings == PLAIN
    assert not (started.folder / LAUNCH_FILE).exists()
    assert started.start_from_what_is_there() is None


@pytest.mark.parametrize(
    "launch",
    [b"", b"{", b"[]", b'{"settings": 7}', b'{"settings": {"model": "m"}}', b" " * 2_000_000],
    ids=["empty", "cut", "a list", "no settings", "half of them", "too long"],
)
def test_odd_launch_files_start_nothing(started: Started, launch: bytes) -> None:
    assert started.start(launch) is None
    assert not (started.folder / LAUNCH_FILE).exists()


def test_a_link_in_its_place_is_not_followed(started: Started) -> None:
    target = started.folder / "another"
    target.write_bytes(Launch(settings=PLAIN).encode())
    (started.folder / LAUNCH_FILE).symlink_to(target)

    assert started.start_from_what_is_there() is None
    assert target.exists()


def test_a_cli_that_cannot_be_started_is_none(started: Started) -> None:
    assert started.around.cli is not None
    started.around.cli.unlink()
    assert started.start(PLAIN) is None


def test_its_system_prompt_is_private_and_goes_with_it(started: Started) -> None:
    early = started.start(AgentSettings(model="m", tools=(), system_prompt="secret \udc80 wish"))
    assert early is not None
    path = early.prompt_file
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == with_note("secret \N{REPLACEMENT CHARACTER} wish")

    early.end()
    assert not path.exists()
    assert early.process.returncode is not None


def test_its_tools_get_the_proxy_that_the_agent_will_listen_at(started: Started) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as egress:
        egress.bind(str(started.folder / "egress.sock"))
        early = started.start(PLAIN)
    assert early is not None
    assert early.proxy == f"http://127.0.0.1:{PORT}" == PROXY
    assert told_by(early)[1]["HTTPS_PROXY"] == PROXY


def test_nothing_heavy_is_imported_before_it_is_started() -> None:
    """Each of these takes longer than all that comes before the start."""
    code = (
        "import sys, agent.main\n"
        "heavy = {'asyncio', 'pydantic', 'logging', 'claude_agent_sdk', 'tempfile'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    # Without site-packages' own start-up files, which an agent's environment has not.
    repository = Path(__file__).parents[4]
    command = [sys.executable, "-S", "-c", code]
    assert os.spawnve(os.P_WAIT, sys.executable, command, {"PYTHONPATH": str(repository)}) == 0


@pytest.mark.parametrize(
    "permissions",
    [
        Permissions(),
        Permissions(mode="default", always="never"),
        Permissions(mode="ask"),
        Permissions(mode="plan"),
        Permissions(ask=("Bash",)),
        Permissions(deny=("Bash",)),
        Permissions(allow=("Bash",), ask=()),
    ],
)
def test_it_knows_whether_calls_may_be_held_back(
    started: Started, permissions: Permissions
) -> None:
    early = started.start(PLAIN.model_copy(update={"permissions": permissions}))
    assert early is not None
    assert (early.model_socket == started.around.model_socket) is permissions.is_free
