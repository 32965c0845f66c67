"""The proxies of docs/how-to/tls.md, as the page configures them."""

from __future__ import annotations

import datetime
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.parts import need

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "tls.md"
pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]


def block(title: str) -> str:
    """The configuration below a heading of the page."""
    section = PAGE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = re.search(r"```text\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


class Slow(BaseHTTPRequestHandler):
    """Streams three events, a while apart, and says who called."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("X-Seen", self.headers.get("X-Forwarded-For", ""))
        self.end_headers()
        for n in range(3):
            self.wfile.write(b"data: %d\n\n" % n)
            self.wfile.flush()
            time.sleep(0.3)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def behind() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_haproxy_ends_tls_and_holds_no_stream_back(behind: int) -> None:
    need("docker")
    need("compose")  # CI makes HAProxy's image for it.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="agc-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "agents.example.org.pem").write_bytes(certificate())
        told = block("With HAProxy").replace("bind :443", f"bind 127.0.0.1:{port}")
        (folder / "haproxy.cfg").write_text(told.replace("127.0.0.1:8000", f"127.0.0.1:{behind}"))
        run = [
            "docker",
            "run",
            "--rm",
            "-d",
            "--network",
            "host",
            "-v",
            f"{folder}:/etc/haproxy:ro",
        ]
        command = ["haproxy:2.6", "haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"]
        begun = subprocess.run(
            [*run, *command], capture_output=True, text=True, check=True, timeout=60
        )
        try:
            arrivals, seen = read(port)
        finally:
            subprocess.run(["docker", "rm", "-f", begun.stdout.strip()], check=True, timeout=60)
        shutil.rmtree(folder / "left", ignore_errors=True)
    assert seen == "127.0.0.1"
    assert len(arrivals) == 3
    assert arrivals[-1] - arrivals[0] > 0.3, "they came as they were sent"


def read(port: int) -> tuple[list[float], str]:
    """When each event arrived, and whom the server saw."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for _ in range(200):
        try:
            raw = socket.create_connection(("127.0.0.1", port), timeout=10)
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    with context.wrap_socket(raw) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        arrivals: list[float] = []
        text = b""
        while piece := line.recv(4096):
            text += piece
            while text.count(b"data: ") > len(arrivals):
                arrivals.append(time.monotonic())
    seen = re.search(rb"(?i)x-seen: (\S+)", text)
    assert seen is not None, text
    return arrivals, seen[1].decode()
