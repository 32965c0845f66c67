"""A small program that stands in for the agent server: it runs what a test asks, inside.

It needs Python and nothing else, so it works in the bare base image. It listens on `agent.sock`,
reads one JSON line `{"run": [...]}` or `{"python": "..."}` per connection and answers with one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

PROGRAM = """
import contextlib, io, json, os, socketserver, subprocess, traceback

class Probe(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline()
        if not line:
            return
        asked = json.loads(line)
        if "run" in asked:
            done = subprocess.run(asked["run"], capture_output=True, text=True)
            answer = {"code": done.returncode, "out": done.stdout + done.stderr}
        else:
            said = io.StringIO()
            try:
                with contextlib.redirect_stdout(said):
                    exec(asked["python"], {"__name__": "probe"})
                answer = {"code": 0, "out": said.getvalue()}
            except BaseException:
                answer = {"code": 1, "out": said.getvalue() + traceback.format_exc()}
        self.wfile.write(json.dumps(answer).encode() + b"\\n")

class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

path = "/run/agcluster/agent.sock"
with contextlib.suppress(FileNotFoundError):
    os.unlink(path)
server = Server(path, Probe)
server.serve_forever()
"""
DOCKER_COMMAND = ("python3", "-c", PROGRAM)
BUBBLEWRAP_COMMAND = (sys.executable, "-IB", "-c", PROGRAM)


class Probed:
    """The answer: exit code and everything printed."""

    def __init__(self, code: int, out: str) -> None:
        self.code = code
        self.out = out


async def listening(sockets: Path, *, timeout_s: float = 30.0) -> None:
    """Wait until the probe listens. The folder tells no one, so this is a poll."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(sockets / "agent.sock")
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return


async def run(sockets: Path, *argv: str, timeout_s: float = 30.0) -> Probed:
    """Run a command inside."""
    return await _ask(sockets, {"run": list(argv)}, timeout_s)


async def python(sockets: Path, code: str, *, timeout_s: float = 30.0) -> Probed:
    """Run Python inside, in the probe's own process."""
    return await _ask(sockets, {"python": code}, timeout_s)


async def _ask(sockets: Path, question: dict[str, Any], timeout_s: float) -> Probed:
    await listening(sockets, timeout_s=timeout_s)
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_unix_connection(sockets / "agent.sock")
        try:
            writer.write(json.dumps(question).encode() + b"\n")
            answer = json.loads(await reader.readline())
        finally:
            writer.close()
            await writer.wait_closed()
    return Probed(answer["code"], answer["out"])
