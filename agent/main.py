"""The agent server's process: `python -m agent.main --socket … --model-socket …`.

It listens first and imports the Agent SDK afterwards, so that it can welcome a worker at once.
Everything it has to do arrives over the link; its arguments are only paths.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from agent import BEGAN_MS
from agent.cli.without_mcp import leave_out_mcp
from agent.forwarder import Forwarder
from agent.memory.transcripts import Transcripts
from agent.server import LinkServer
from agent.start_times import StartTimes
from agent.turn import AgentSession
from infra.wire.base import VERSION
from infra.wire.gateway import AGENT_SOCKET, EGRESS_SOCKET, MODEL_SOCKET

_SOCKETS = Path("/run/agcluster")
_CLI_TEMP = Path("/run/cli")
"""Its path in the container (`worker.hosts.host`)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to exit, by the worker or by SIGTERM."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(
        level=given.log_level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(serve(given))
    return 0


async def serve(given: argparse.Namespace) -> None:
    """Run the server with a real session behind it."""
    async with asyncio.TaskGroup() as group:
        forwarder = Forwarder(given.egress_socket, group)
        transcripts = Transcripts()
        times = StartTimes(python_ms=BEGAN_MS)

        async def open_session(tasks: asyncio.TaskGroup) -> AgentSession:
            times.note_listening()
            leave_out_mcp()
            # In a thread, so that the loop can answer while the SDK is imported.
            await asyncio.to_thread(importlib.import_module, "agent.session")
            from agent.cli.options import CONNECT_TIMEOUT_S, CliSetup
            from agent.session import ClaudeSession

            around = CliSetup(
                given.workspace,
                given.model_socket,
                cli=given.cli,
                connect_timeout_s=given.connect_timeout_s or CONNECT_TIMEOUT_S,
                temp_dir=_CLI_TEMP if os.access(_CLI_TEMP, os.W_OK) else None,
            )
            return ClaudeSession(
                around,
                group=tasks,
                forwarder=forwarder,
                transcripts=transcripts,
                times=times,
                tell=server.tell,
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
        await server.serve(given.socket)
        forwarder.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agent.main", description=__doc__)
    parser.add_argument("--socket", type=Path, default=_SOCKETS / AGENT_SOCKET)
    parser.add_argument("--model-socket", type=Path, default=_SOCKETS / MODEL_SOCKET)
    parser.add_argument("--egress-socket", type=Path, default=_SOCKETS / EGRESS_SOCKET)
    parser.add_argument("--workspace", type=Path, default=Path("/workspace"))
    parser.add_argument("--cli", type=Path, help="another CLI than the SDK's own")
    parser.add_argument("--connect-timeout-s", type=float, help="for one start of the CLI")
    parser.add_argument("--log-level", default="INFO")
    return parser


if __name__ == "__main__":
    sys.exit(main())
