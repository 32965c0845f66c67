"""A worker's view of a farm: `ContainerHost` over its Unix socket. Isolates nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from infra.wire.errors import ContainerFailed, LeaseLost, NoIsolation
from infra.wire.ids import HostId
from tests.chaos.farm import LEASE_LOST, order_of
from worker.hosts.form import ContainerForm
from worker.hosts.host import Container, ContainerExit, ContainerId, ContainerSpec

ANSWER_TIMEOUT_S = 20.0
_AGAIN_S = 0.2
_LINE_MAX = 2**20


class FarmHost:
    """Implements `worker.hosts.host.ContainerHost`. Each call has a connection of its own."""

    name = "light"

    def __init__(self, host: HostId, socket: str) -> None:
        self.host = host
        self._socket = socket

    async def check(self) -> None:
        """See `ContainerHost`."""
        try:
            await self.list()
        except ContainerFailed as error:
            raise NoIsolation(str(error)) from error

    async def start(self, spec: ContainerSpec) -> Container:
        """See `ContainerHost`."""
        answer = await self._ask(order_of(spec))
        if answer.get("error") == LEASE_LOST:
            raise LeaseLost(spec.conversation, spec.fence)
        return _container(_good(answer))

    async def limit_cpus(self, id: ContainerId, cpus: float) -> None:
        """See `ContainerHost`: its agents have no limits."""

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        """See `ContainerHost`."""
        _good(await self._ask({"do": "stop", "id": id}))

    async def list(self) -> Sequence[Container]:
        """See `ContainerHost`."""
        answer = _good(await self._ask({"do": "list"}))
        return [_container(one) for one in answer["containers"]]

    async def kill(self, conversation: str) -> None:
        """End a conversation's container by force."""
        _good(await self._ask({"do": "kill", "conversation": conversation}))

    async def unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        """See `ContainerHost`: its agents write no files."""
        return 0

    async def exits(self) -> AsyncIterator[ContainerExit]:
        """See `ContainerHost`."""
        while True:
            try:
                async with self._connected() as (reader, writer):
                    writer.write(b'{"do": "exits"}\n')
                    await reader.readline()
                    while line := await reader.readline():
                        yield ContainerExit(**json.loads(line))
            except OSError:
                pass  # The machine is gone; should it come back, so do we.
            await asyncio.sleep(_AGAIN_S)

    async def aclose(self) -> None:
        """See `ContainerHost`."""

    async def _ask(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S), self._connected() as (reader, writer):
                writer.write(json.dumps(order).encode() + b"\n")
                line = await reader.readline()
        except (OSError, TimeoutError) as error:
            raise ContainerFailed(f"the farm does not answer: {error!r}") from error
        if not line:
            raise ContainerFailed("the farm hung up")
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=_LINE_MAX)
        try:
            yield reader, writer
        finally:
            writer.close()


def _good(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    if "error" in answer:
        raise ContainerFailed(answer.get("message", answer["error"]))
    return answer


def _container(told: Mapping[str, Any]) -> Container:
    return Container(**{**told, "form": ContainerForm.of_text(told["form"])})
