"""A light host's containers in a process of their own: `python -m tests.chaos.farm PATH HOST`.

Stands for a machine's engine: its containers outlive every worker, and killing it is the loss of
the machine. Each connection to its Unix socket carries one order and its answer, a JSON line each;
`exits` is answered with a line for each container that ends, until the connection does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.runtime.lifecycle import stop_signals
from infra.wire.errors import ContainerFailed, LeaseLost
from infra.wire.ids import ConversationKey, Fence, HostId
from tests.chaos.light_agent import light_agent
from tests.fakes.memory_host import MemoryHost, MemoryMachine
from tests.fakes.scripted_agent import ScriptedAgent
from worker.hosts.form import ContainerForm
from worker.hosts.host import Container, ContainerId, ContainerSpec, Limits, SessionFolders

LEASE_LOST = "lease_lost"
FAILED = "container_failed"
ANY_CLUSTER = "chaos"


class Farm:
    """A machine, and how it is told what to do."""

    def __init__(self, host: HostId) -> None:
        self.machine = MemoryMachine(self._agent)
        self._host = MemoryHost(self.machine, host=host, cluster=ANY_CLUSTER)
        self._crashes: asyncio.Queue[ConversationKey] = asyncio.Queue()

    async def run_crashes(self) -> None:
        """End the containers whose agents want it; an agent cannot wait for its own end."""
        while True:
            await self.machine.kill(await self._crashes.get(), is_out_of_memory=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(OSError):
            if line := await reader.readline():
                order = json.loads(line)
                if order["do"] == "exits":
                    await self._tell_exits(writer)
                writer.write(json.dumps(await self._obey(order)).encode() + b"\n")
        writer.close()

    async def _obey(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            match order["do"]:
                case "start":
                    return _told(await self._host.start(spec_of(order)))
                case "stop":
                    await self._host.stop(ContainerId(order["id"]))
                    return {}
                case "kill":
                    await self.machine.kill(order["conversation"], is_out_of_memory=False)
                    return {}
        except LeaseLost:
            return {"error": LEASE_LOST}
        except ContainerFailed as error:
            return {"error": FAILED, "message": str(error)}
        return {"containers": [_told(one) for one in await self._host.list()]}

    async def _tell_exits(self, writer: asyncio.StreamWriter) -> None:
        stream = self.machine.feed.subscribe()
        writer.write(b"{}\n")
        async for exit in stream:
            writer.write(json.dumps(asdict(exit)).encode() + b"\n")
            await writer.drain()

    def _agent(self, spec: ContainerSpec) -> ScriptedAgent:
        return light_agent(spec, crash=lambda: self._crashes.put_nowait(spec.conversation))


def order_of(spec: ContainerSpec) -> dict[str, Any]:
    """A spec as an order to start it."""
    return {
        "do": "start",
        "conversation": spec.conversation,
        "fence": spec.fence,
        "sockets": str(spec.folders.sockets),
        "workspace": str(spec.folders.workspace),
        "limits": asdict(spec.limits),
        "form": spec.form.text,
    }


def _told(container: Container) -> Mapping[str, Any]:
    return asdict(container) | {"form": container.form.text}


def spec_of(order: Mapping[str, Any]) -> ContainerSpec:
    """The spec in an order."""
    return ContainerSpec(
        conversation=ConversationKey(order["conversation"]),
        fence=Fence(order["fence"]),
        folders=SessionFolders(Path(order["sockets"]), Path(order["workspace"])),
        limits=Limits(**order["limits"]),
        egress=False,
        form=ContainerForm.of_text(order["form"]),
    )


async def main(path: str, host: str) -> None:
    """Until SIGTERM."""
    farm = Farm(HostId(host))
    with stop_signals() as stop:
        async with farm.machine, asyncio.TaskGroup() as group:
            crashing = group.create_task(farm.run_crashes())
            server = await asyncio.start_unix_server(farm.serve, path, limit=2**20)
            async with server:
                await stop.wait()
            crashing.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
