"""Runs the agent server with a real session behind it, until it is told to exit."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import signal
from pathlib import Path

from agent import BEGAN_MS
from agent.cli.early import EarlyCli
from agent.cli.setup import CliSetup
from agent.cli.without_mcp import leave_out_mcp
from agent.forwarder import Forwarder
from agent.memory.transcripts import Transcripts
from agent.server import LinkServer
from agent.start_times import StartTimes
from agent.turn import AgentSession
from infra.wire.base import VERSION


async def serve(
    socket: Path, around: CliSetup, *, egress_socket: Path, early: EarlyCli | None
) -> None:
    """Listen on `socket`, and only then import the Agent SDK, so that a worker is welcomed at once.

    `early` is a CLI that runs already.
    """
    async with asyncio.TaskGroup() as group:
        forwarder = Forwarder(egress_socket, group)
        transcripts = Transcripts()
        times = StartTimes(python_ms=BEGAN_MS)

        async def open_session(tasks: asyncio.TaskGroup) -> AgentSession:
            times.note_listening()
            leave_out_mcp()
            # In a thread, so that the loop can answer while the SDK is imported.
            await asyncio.to_thread(importlib.import_module, "agent.session")
            from agent.session import ClaudeSession

            return ClaudeSession(
                around,
                group=tasks,
                forwarder=forwarder,
                transcripts=transcripts,
                times=times,
                tell=server.tell,
                early=early,
            )

        server = LinkServer(
            open_session,
            transcripts=transcripts,
            agent_version=VERSION,
            sdk_version=importlib.metadata.version("claude-agent-sdk"),
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.close)
        await server.serve(socket)
        forwarder.close()
