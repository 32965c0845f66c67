"""Starts an MCP server in the container: `mcp_launcher.py SOCKET NAME VARIABLES -- COMMAND...`

The CLI starts servers with its whole environment, and keeps what they write to standard error to
itself. So it starts this, which becomes the server: with the variables that its profile declares
(VARIABLES, with commas between) and those that any program needs, and with standard error led to
SOCKET, where the agent keeps the last words of the server NAME.

Imports the standard library only; it is run as a file, before anything else is there.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys

USUAL = frozenset(
    {
        "HOME",
        "LANG",
        "LC_ALL",
        "PATH",
        "TMPDIR",
        "TZ",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        # By this the agent finds what it has to end.
        "AGCLUSTER_CLI",
    }
)


def main(words: str, name: str, variables: str, command: list[str]) -> None:
    """Become the command. Returns if there is no such program."""
    _lead_errors(words, name)
    kept = USUAL | set(variables.split(","))
    around = {name: value for name, value in os.environ.items() if name in kept}
    try:
        os.execvpe(command[0], command, around)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())


def _lead_errors(words: str, name: str) -> None:
    """Without the socket they go nowhere."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.connect(words)
        line.sendall(f"{name}\n".encode())
        os.dup2(line.fileno(), 2)
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)


if __name__ == "__main__":
    socket_path, server, declared, _, *rest = sys.argv[1:]
    main(socket_path, server, declared, rest)
    sys.exit(127)
