"""The real agent in its image, against the scripted model: for tests of the agent alone.

The container is as hardened as a worker's, with no network, so that tools a test runs stay in it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.parts import AGENT_IMAGE

START_TIMEOUT_S = 60.0
AGENT_UID = 1000
_REPOSITORY = Path(__file__).parents[2]


@contextmanager
def scripted_model() -> Iterator[Path]:
    """The scripted model as a process; yields the folder its `model.sock` is in."""
    folder = _folder("agc-m-")
    command = [sys.executable, "-m", "infra.scripted_model", "--uds", str(folder / "model.sock")]
    model = subprocess.Popen(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert model.stdout is not None
        assert "listens" in model.stdout.readline()
        (folder / "model.sock").chmod(0o777)
        yield folder
    finally:
        model.terminate()
        model.communicate(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


class ContainedAgent:
    """One agent container, as an async context manager."""

    def __init__(self, model: Path, *, env: Mapping[str, str] | None = None) -> None:
        """`env` is added to the container's environment."""
        self.folder = _folder("agc-a-")
        self.sockets = self.folder / "s"
        self.workspace = self.folder / "w"
        self.socket = self.sockets / "agent.sock"
        self.name = f"agc-test-agent-{uuid.uuid4().hex[:12]}"
        self._model = model
        self._env = [
            word for name, value in (env or {}).items() for word in ("--env", f"{name}={value}")
        ]
        for path in (self.sockets, self.workspace):
            path.mkdir(mode=0o700)
            if os.getuid() == 0:
                os.chown(path, AGENT_UID, AGENT_UID)

    async def __aenter__(self) -> Self:
        # fmt: off
        await _docker(
            "run", "--detach", "--name", self.name, "--init", "--network", "none", "--read-only",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "1000:1000",
            "--pids-limit", "256", "--memory", "1g", "--memory-swap", "1g",
            "--tmpfs", "/tmp:size=64m",
            "--tmpfs", "/home/agent:size=64m,uid=1000,gid=1000,mode=0700",
            "--volume", f"{self.sockets}:/run/agcluster",
            "--volume", f"{self.workspace}:/workspace",
            "--volume", f"{self._model}:/run/model",
            *self._env, AGENT_IMAGE, "--model-socket", "/run/model/model.sock",
        )
        # fmt: on
        async with asyncio.timeout(START_TIMEOUT_S):
            # Nothing tells when somebody listens; the socket is there a moment before.
            while not await self._listens():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *_: object) -> None:
        await _docker("rm", "--force", "--volumes", self.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return False
        writer.close()
        return True

    async def run(self, *command: str) -> str:
        """Run a command in the container, beside the agent; its output."""
        return await _docker("exec", self.name, *command)

    async def is_running(self) -> bool:
        """Whether the container still runs."""
        return await _docker("inspect", "--format", "{{.State.Running}}", self.name) == "true"


async def _docker(*arguments: str) -> str:
    """Run docker with a deadline; its output, or an error with what it said."""
    process = await asyncio.create_subprocess_exec(
        "docker", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(START_TIMEOUT_S):
        output, _ = await process.communicate()
    text = output.decode(errors="replace").strip()
    if process.returncode != 0:
        raise RuntimeError(f"docker {arguments[0]} failed: {text}")
    return text


def _folder(prefix: str) -> Path:
    """A folder with a short path (Unix socket names end at 108 bytes) that the agent may enter."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    folder.chmod(0o755)
    return folder
