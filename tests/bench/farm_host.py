"""A container host whose containers are stand-in agents in one other process. Isolates nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from infra.wire.ids import HostId
from infra.wire.socket_folder import AGENT_SOCKET
from worker.hosts.host import Container, ContainerExit, ContainerId, ContainerSpec

ANSWER_TIMEOUT_S = 20.0


class FarmHost:
    """Implements `worker.hosts.host.ContainerHost`."""

    name = "stand-in"

    def __init__(
        self, host: HostId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.host = host
        self._reader = reader
        self._writer = writer
        self._asking = asyncio.Lock()
        self._containers: dict[ContainerId, tuple[Container, str]] = {}

    async def check(self) -> None:
        """Nothing can be missing."""

    async def start(self, spec: ContainerSpec) -> Container:
        socket = str(spec.folders.sockets / AGENT_SOCKET)
        id = ContainerId(f"farm-{spec.conversation}")
        await self._ask(f"start {socket}")
        container = Container(
            id, spec.conversation, spec.fence, is_running=True, created_ms=time.time_ns() // 10**6
        )
        self._containers[id] = (container, socket)
        return container

    async def limit_cpus(self, id: ContainerId, cpus: float) -> None:
        """See `ContainerHost`: its agents have no limits."""

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        if known := self._containers.pop(id, None):
            await self._ask(f"stop {known[1]}")

    async def list(self) -> Sequence[Container]:
        return [container for container, _ in self._containers.values()]

    async def unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        """See `ContainerHost`: its agents write no files."""
        return 0

    async def exits(self) -> AsyncIterator[ContainerExit]:
        """Stand-ins do not end by themselves."""
        never: asyncio.Queue[ContainerExit] = asyncio.Queue()
        while True:
            yield await never.get()

    async def aclose(self) -> None:
        """The farm belongs to `farm_host`."""

    async def _ask(self, line: str) -> None:
        async with self._asking, asyncio.timeout(ANSWER_TIMEOUT_S):
            self._writer.write(line.encode() + b"\n")
            answer = await self._reader.readline()
        if answer.decode().strip() != line:
            raise RuntimeError(f"the farm answered {answer!r} to {line!r}")


@asynccontextmanager
async def farm_host(host: HostId, socket: str) -> AsyncIterator[FarmHost]:
    """A host on the farm that listens on `socket`."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        yield FarmHost(host, reader, writer)
    finally:
        writer.close()
