"""A real redis-server of the test's own, on a Unix socket in a short folder; and its troubles.

    async with real_redis() as server:
        client = connect(server.url, ...)
        await server.restart()

`freeze` makes it a black hole: connections stay open and nothing answers.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.parts import need, redis_server


class RealRedis:
    """One redis-server process. `options` are further command line options.

    Without `append_only` it forgets everything when it restarts. With a `config` it is set up as
    that file says, and by the options. `tls`: beside its socket it has a
    port for TLS (`tls_url`); the options name its certificate.
    """

    _greeting = b""
    """What is sent before it is asked whether it is up: a line for each command."""

    def __init__(
        self,
        *,
        append_only: bool = False,
        options: tuple[str, ...] = (),
        tls: bool = False,
        config: Path | None = None,
    ) -> None:
        need("redis")
        self._folder = Path(tempfile.mkdtemp(prefix="agc-redis-"))
        self._socket = self._folder / "redis.sock"
        set_up = ("--save", "", "--loglevel", "warning", "--appendonly", _yes_or_no(append_only))
        self._set_up = (str(config),) if config else set_up
        self._options = options
        [self._tls_port] = free_ports(1) if tls else [0]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def tls_url(self, host: str = "localhost") -> str:
        return f"rediss://{host}:{self._tls_port}"

    @property
    def folder(self) -> Path:
        """Its working directory, for files its options name."""
        return self._folder

    def launch(self) -> None:
        """Start it; returns when it answers."""
        program = redis_server()
        assert program
        self._process = subprocess.Popen(
            [
                program,
                *self._set_up,
                *("--unixsocket", str(self._socket), "--dir", str(self._folder)),
                *("--port", "0", "--bind", "127.0.0.1"),
                *(("--tls-port", str(self._tls_port)) if self._tls_port else ()),
                *("--daemonize", "no"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.02)

    def terminate(self) -> None:
        """Stop it, frozen or not."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.terminate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def freeze(self) -> None:
        """From now on nothing answers, and no connection breaks."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._signal(signal.SIGCONT)

    async def start(self) -> None:
        await asyncio.to_thread(self.launch)

    async def stop(self) -> None:
        await asyncio.to_thread(self.terminate)

    async def kill(self) -> None:
        """SIGKILL: it writes nothing more."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        await asyncio.to_thread(self._process.wait, 10)
        self._process = None

    async def restart(self) -> None:
        """Every connection breaks; without `append_only` every key is gone."""
        await self.stop()
        await self.start()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(str(self._socket))
                probe.sendall(self._greeting + b"PING\r\n")
                # One that loads its log says so, but only to those whom it knows.
                with probe.makefile("rb") as answers:
                    for _ in self._greeting.splitlines():
                        answers.readline()
                    return answers.readline().startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _yes_or_no(is_so: bool) -> str:
    return "yes" if is_so else "no"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 nobody has; all at once, so that none is given twice."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@asynccontextmanager
async def real_redis(
    *, append_only: bool = False, options: tuple[str, ...] = (), tls: bool = False
) -> AsyncIterator[RealRedis]:
    """A started server, removed at the end."""
    server = RealRedis(append_only=append_only, options=options, tls=tls)
    try:
        await server.start()
        yield server
    finally:
        await asyncio.to_thread(server.remove)
