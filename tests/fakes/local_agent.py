"""The agent's own program and its CLI as processes of this machine, for scripts that do no harm.

No isolation and no image: the code under test is this checkout's, and a start takes a second. Tests
whose tools touch anything but their own workspace take a `ContainedAgent`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.wire.events import Event
from infra.wire.socket_folder import LAUNCH_FILE
from tests.fakes.link_client import connected, start_turn

_numbers = itertools.count(1)
_REPOSITORY = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class LocalAgent:
    """Where it listens, and where its tools work."""

    socket: Path
    workspace: Path


@contextmanager
def local_agent(
    model_socket: Path,
    *,
    cli: Path | None = None,
    connect_timeout_s: float | None = None,
    launch: bytes | None = None,
    bundle: Path | None = None,
) -> Iterator[LocalAgent]:
    """An agent that asks the model at that socket, with another CLI than the SDK's own.

    `launch` is what its launch file says, if it gets one; `bundle` a folder as a host unpacks it.
    """
    folder = Path(tempfile.mkdtemp(prefix="agc-l-", dir="/tmp"))
    agent = LocalAgent(folder / "agent.sock", folder / "w")
    agent.workspace.mkdir()
    if launch is not None:
        (folder / LAUNCH_FILE).write_bytes(launch)
    # fmt: off
    command = [
        sys.executable, "-m", "agent.main", "--socket", str(agent.socket),
        "--model-socket", str(model_socket), "--egress-socket", str(folder / "egress.sock"),
        "--workspace", str(agent.workspace),
    ]
    # fmt: on
    if bundle is not None:
        command += ["--bundle", str(bundle)]
    if cli is not None:
        command += ["--cli", str(cli)]
    if connect_timeout_s is not None:
        command += ["--connect-timeout-s", str(connect_timeout_s)]
    # As root the CLI asks for somebody's word that it is in a sandbox.
    env = {**os.environ, "HOME": str(folder), "IS_SANDBOX": "1"}
    process = subprocess.Popen(command, cwd=_REPOSITORY, env=env, stderr=subprocess.DEVNULL)
    try:
        _wait_for(agent.socket, process)
        yield agent
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


async def ask(agent: LocalAgent, prompt: str, **settings: Any) -> list[Event]:
    """The next turn of its one conversation; each turn leaves it good for the next."""
    async with connected(agent.socket) as (link, _):
        return await link.run(start_turn(f"l{next(_numbers)}", prompt, **settings))


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Nothing tells when it listens; its socket's file is there a moment earlier."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _listens(path):
        assert process.poll() is None, "the agent ended"
        assert time.monotonic() < deadline, "the agent does not listen"
        time.sleep(0.02)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
