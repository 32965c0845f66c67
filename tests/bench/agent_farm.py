"""All stand-in agents of a run, in a process of their own: `python -m tests.bench.agent_farm PATH`.

Listens on a Unix socket; each line is `start <socket>` or `stop <socket>` and is answered with the
same line. The agents are real agent servers with a script in the SDK's place, so what they cost is
not counted as the worker's.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from infra.runtime.lifecycle import stop_signals
from tests.fakes.scripted_agent import ScriptedAgent


async def main(path: str) -> None:
    """Until SIGTERM."""
    orders: asyncio.Queue[tuple[str, asyncio.StreamWriter]] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            orders.put_nowait((line.decode(), writer))
        writer.close()

    with stop_signals() as stop:
        server = await asyncio.start_unix_server(listen, path)
        async with server, asyncio.TaskGroup() as group:
            # One task starts and stops them all: a task group is left where it was entered.
            obeying = group.create_task(_obey(orders))
            await stop.wait()
            obeying.cancel()


async def _obey(orders: asyncio.Queue[tuple[str, asyncio.StreamWriter]]) -> None:
    running: dict[str, AsyncExitStack] = {}
    try:
        while True:
            line, writer = await orders.get()
            verb, socket = line.split()
            if verb == "start":
                running[socket] = AsyncExitStack()
                await running[socket].enter_async_context(ScriptedAgent(Path(socket)))
            elif stack := running.pop(socket, None):
                await stack.aclose()
            writer.write(line.encode())
    finally:
        for stack in running.values():
            await stack.aclose()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
