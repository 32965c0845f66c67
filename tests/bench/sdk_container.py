"""The floor below us: the Agent SDK in a container hardened like ours, asked without anything else.

The scripted model listens on a Unix socket that is mounted into the container.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.streams import ANSWER_TIMEOUT_S, Answer, Moment, read_stamps
from tests.parts import AGENT_IMAGE

_INSIDE = Path(__file__).with_name("sdk_inside.py").resolve()
_LINE_MAX_BYTES = 16 * 1024 * 1024


class SdkContainer:
    """A `docker run -i` of `sdk_inside.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, prompt: str) -> Answer:
        """One answer; its times were taken inside the container, which shares our clock."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answer, began_ns = Answer(), time.time_ns()
        self._process.stdin.write(prompt.encode() + b"\n")
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while (line := await self._process.stdout.readline()) != b"end\n":
                if not line:
                    raise RuntimeError("the SDK's container ended")
                arrived, _, text = line.partition(b" ")
                if not answer.first_delta_s:
                    answer.first_delta_s = (int(arrived) - began_ns) / 1e9
                read_stamps(answer, text, Moment(int(arrived), 0))
        return answer


@asynccontextmanager
async def started(sockets: Path) -> AsyncIterator[SdkContainer]:
    """`sockets` holds `model.sock`, on which the scripted model listens."""
    process = await asyncio.create_subprocess_exec(
        *("docker", "run", "-i", "--rm", "--init", "--network", "none", "--read-only"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "1000:1000"),
        *("--memory", "1g", "--pids-limit", "256", "--cpus", "1"),
        *("--tmpfs", "/tmp:size=64m", "--tmpfs", "/workspace:uid=1000,gid=1000"),
        *("--tmpfs", "/home/agent:uid=1000,gid=1000", "--env", "HOME=/home/agent"),
        *("--volume", f"{sockets}:/run/model:ro", "--volume", f"{_INSIDE}:/bench/inside.py:ro"),
        *("--workdir", "/workspace", "--entrypoint", "/opt/venv/bin/python", AGENT_IMAGE),
        "/bench/inside.py",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_MAX_BYTES,
    )
    try:
        yield SdkContainer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(30):
            await process.wait()
