"""A real MCP server over HTTP, made with the `mcp` package: it asks for a key and echoes.

    with mcp_server(folder, "Bearer s3cret") as server:
        ... server.url ...
        assert server.calls

`python -m tests.fakes.mcp_server PORT LOG KEY...` serves it; the log has a line for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RunningMcpServer:
    """Where it is, and what it was asked."""

    url: str
    log: Path

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Each request: method, path, headers, and whether its key was right."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def mcp_server(folder: Path, *keys: str) -> Iterator[RunningMcpServer]:
    """The server on a free port of loopback; each of these values of `Authorization` is right."""
    port = free_port()
    log = folder / "mcp.log"
    log.touch()
    command = [sys.executable, "-m", "tests.fakes.mcp_server", str(port), str(log), *keys]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(port, process)
        yield RunningMcpServer(f"http://127.0.0.1:{port}/mcp", log)
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it listens."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("the MCP server did not come up")


def echo_server() -> MCPServer:
    """What it does."""
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("echo")

    @server.tool()
    def repeat(text: str) -> str:
        """Says the text again, louder."""
        return text.upper()

    @server.tool()
    async def wait(seconds: float) -> str:
        """Answers after that time."""
        await asyncio.sleep(seconds)
        return "waited"

    return server


def _serve(port: int, log: Path, keys: Sequence[str]) -> None:
    import uvicorn
    from starlette.responses import PlainTextResponse
    from starlette.types import ASGIApp, Receive, Scope, Send

    def guarded(app: ASGIApp) -> ASGIApp:
        async def checked(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            is_right = headers.get("authorization") in keys
            with log.open("a") as file:
                told = {"method": scope["method"], "path": scope["path"], "headers": headers}
                file.write(json.dumps({**told, "is_right": is_right}) + "\n")
            if is_right:
                await app(scope, receive, send)
            else:
                await PlainTextResponse("no", status_code=401)(scope, receive, send)

        return checked

    uvicorn.run(guarded(echo_server().streamable_http_app()), port=port, log_level="warning")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
