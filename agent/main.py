"""The agent server's process: `python -m agent.main --socket … --model-socket …`.

It starts its CLI first, if its worker left the settings for it, and imports everything else while
the CLI boots (`agent.cli.early`). Everything else it has to do arrives over the link; its arguments
are only paths.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.cli.early import EarlyCli, start_early
from agent.cli.setup import CONNECT_TIMEOUT_S, CliSetup
from infra.wire.agents.plugin import BUNDLE_AT
from infra.wire.socket_folder import AGENT_SOCKET, EGRESS_SOCKET, MODEL_SOCKET

_SOCKETS = Path("/run/agcluster")
_CLI_TEMP = Path("/run/cli")
"""Its path in the container (`worker.hosts.host`)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to exit, by the worker or by SIGTERM."""
    given = _parser().parse_args(arguments)
    around = CliSetup(
        given.workspace,
        given.model_socket,
        cli=given.cli,
        bundle=given.bundle,
        connect_timeout_s=given.connect_timeout_s or CONNECT_TIMEOUT_S,
        temp_dir=_CLI_TEMP if os.access(_CLI_TEMP, os.W_OK) else None,
    )
    early = start_early(given.socket.parent, around, egress_socket=given.egress_socket)
    try:
        _serve(given, around, early)
    finally:
        if early is not None and early.process.poll() is None:
            early.end()
    return 0


def _serve(given: argparse.Namespace, around: CliSetup, early: EarlyCli | None) -> None:
    import asyncio
    import logging

    from agent.log_lines import FORMAT, running
    from agent.serving import serve

    output = logging.StreamHandler(sys.stderr)
    output.addFilter(running)
    logging.basicConfig(level=given.log_level, handlers=[output], format=FORMAT)
    asyncio.run(serve(given.socket, around, egress_socket=given.egress_socket, early=early))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agent.main", description=__doc__)
    parser.add_argument("--socket", type=Path, default=_SOCKETS / AGENT_SOCKET)
    parser.add_argument("--model-socket", type=Path, default=_SOCKETS / MODEL_SOCKET)
    parser.add_argument("--egress-socket", type=Path, default=_SOCKETS / EGRESS_SOCKET)
    parser.add_argument("--workspace", type=Path, default=Path("/workspace"))
    parser.add_argument("--bundle", type=Path, default=Path(BUNDLE_AT))
    parser.add_argument("--cli", type=Path, help="another CLI than the SDK's own")
    parser.add_argument("--connect-timeout-s", type=float, help="for one start of the CLI")
    parser.add_argument("--log-level", default="INFO")
    return parser


if __name__ == "__main__":
    sys.exit(main())
