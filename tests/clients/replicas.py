"""A second API replica beside the one of `agcluster up`, and a balancer that gives each request to
the other one.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from infra.cli.up.programs import python_command
from tests.e2e.deployments import Deployment, answers, free_port, stop, wait_until
from tests.e2e.test_interruptions import program

_HOP = {"connection", "content-length", "transfer-encoding", "host", "date", "server", "keep-alive"}


class _Balancer(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, port: int, replicas: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._next = itertools.cycle(replicas)
        self._lock = threading.Lock()

    def upstream(self) -> str:
        with self._lock:
            return next(self._next)


class _Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.0, so each request is a connection of its own."""

    server: _Balancer

    def _pass_on(self) -> None:
        body = b"".join(self._body())
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        url = self.server.upstream() + self.path
        with httpx.stream(self.command, url, content=body, headers=headers, timeout=120) as answer:
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in _HOP:
                    self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in answer.iter_raw():
                    self.wfile.write(piece)

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("content-length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    do_GET = do_POST = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        """Tests say what is worth saying."""


@contextlib.contextmanager
def two_replicas(deployment: Deployment, *, port: int) -> Iterator[Deployment]:
    """The same deployment behind a balancer, on this port, over two replicas."""
    with _second_replica(deployment, free_port()) as url:
        balancer = _Balancer(port, (deployment.base_url, url))
        thread = threading.Thread(target=balancer.serve_forever)
        thread.start()
        try:
            yield replace(deployment, base_url=f"http://127.0.0.1:{port}")
        finally:
            balancer.shutdown()
            balancer.server_close()
            thread.join(10)


@contextlib.contextmanager
def _second_replica(deployment: Deployment, port: int) -> Iterator[str]:
    first = Path(f"/proc/{program(deployment, 'api.main')}")
    pairs = (first / "environ").read_text().split("\0")
    environ = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    environ["AGCLUSTER_PORT"] = str(port)
    process = subprocess.Popen(
        python_command("api.main"),
        cwd=(first / "cwd").readlink(),
        env=environ,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until("the second replica", lambda: answers(f"{url}/health/ready"), 60)
        yield url
    finally:
        stop(process)
