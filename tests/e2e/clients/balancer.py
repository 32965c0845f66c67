"""A load balancer that answers for a server it has not the patience to wait for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

PATIENCE_S = 1.0
_HOP = {"connection", "transfer-encoding", "content-length", "host", "date", "server"}


class ImpatientBalancer(ThreadingHTTPServer):
    """Passes requests on. The first one that holds `gives_up_on` gets a 503 after `PATIENCE_S`,
    while its request upstream goes on, as a balancer's own timeouts do.
    """

    daemon_threads = False

    def __init__(self, upstream: str, gives_up_on: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.gives_up_on = gives_up_on.encode()
        self.given_up = 0
        self.passed = 0
        self.kept = ThreadPoolExecutor(1)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def is_too_slow(self, body: bytes) -> bool:
        with self._lock:
            self.passed += 1
            if self.given_up or self.gives_up_on not in body:
                return False
            self.given_up += 1
            return True


class _Handler(BaseHTTPRequestHandler):
    server: ImpatientBalancer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        url = self.server.upstream + self.path
        if self.server.is_too_slow(body):
            kept = self.server.kept.submit(
                httpx.post, url, content=body, headers=headers, timeout=60
            )
            with contextlib.suppress(TimeoutError):
                kept.result(PATIENCE_S)
            self.send_error(503)
            return
        with httpx.stream("POST", url, content=body, headers=headers, timeout=60) as answer:
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.end_headers()
            for chunk in answer.iter_raw():
                self.wfile.write(chunk)
                self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def impatient_balancer(upstream: str, *, gives_up_on: str) -> Iterator[ImpatientBalancer]:
    server = ImpatientBalancer(upstream, gives_up_on)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield server
    finally:
        server.shutdown()
        serving.join(10)
        server.kept.shutdown()
        server.server_close()
