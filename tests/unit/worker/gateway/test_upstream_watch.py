"""A gateway knows whether the model's service answers, and why not."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.runtime.clock import SystemClock
from infra.wire.model.upstream_cause import UpstreamCause
from worker.gateway.model import upstream_watch
from worker.gateway.model.upstream import Upstream, UpstreamTimeouts
from worker.gateway.model.upstream_watch import UpstreamWatch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_watch, "PROBE_S", 0.3)
    monkeypatch.setattr(upstream_watch, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(upstream_watch, "LONGEST_PAUSE_S", 0.02)


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that is bound, and on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        yield bound.getsockname()[1]


async def until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 - a watch tells nobody
        await asyncio.sleep(0.01)


def certificate(folder: Path) -> Path:
    """Of nobody whom we trust, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
async def untrusted(tmp_path: Path) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    runner = web.AppRunner(web.Application())
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        await web.SockSite(runner, bound, ssl_context=context).start()
        yield bound.getsockname()[1]
        await runner.cleanup()


async def asked(url: str) -> UpstreamWatch:
    async with Upstream(url, timeouts=UpstreamTimeouts(connect_s=1.0)) as upstream:
        watch = UpstreamWatch(upstream, SystemClock())
        await watch.ask()
        return watch


async def test_a_port_without_a_server_is_refused_by_name(nobody: int) -> None:
    watch = await asked(f"http://127.0.0.1:{nobody}")
    assert watch.health.cause is UpstreamCause.REFUSED
    assert watch.health.host == f"127.0.0.1:{nobody}"


async def test_a_name_that_nobody_knows() -> None:
    watch = await asked("http://user:secret@nowhere.invalid/path")
    assert watch.health.cause is UpstreamCause.NAME
    assert watch.health.host == "nowhere.invalid"


async def test_a_server_that_says_nothing(silent: int) -> None:
    assert (await asked(f"http://127.0.0.1:{silent}")).health.cause is UpstreamCause.TIMEOUT


async def test_a_certificate_that_is_not_trusted(untrusted: int) -> None:
    watch = await asked(f"https://127.0.0.1:{untrusted}")
    assert watch.health.cause is UpstreamCause.CERTIFICATE


async def test_a_server_that_does_not_speak_tls() -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        await web.SockSite(runner, bound).start()
        watch = await asked(f"https://127.0.0.1:{bound.getsockname()[1]}")
        await runner.cleanup()
    assert watch.health.cause is UpstreamCause.TLS


async def test_whatever_it_answers_is_a_sign_of_life() -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        await web.SockSite(runner, bound).start()
        watch = await asked(f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert watch.health.is_known
        assert watch.health.cause is None
        await runner.cleanup()


async def test_nothing_is_known_before_it_was_asked(nobody: int) -> None:
    async with Upstream(f"http://127.0.0.1:{nobody}") as upstream:
        assert not UpstreamWatch(upstream, SystemClock()).health.is_known


async def test_it_is_asked_until_it_is_back() -> None:
    """No turn has to try for that."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with (
        Upstream(f"http://127.0.0.1:{port}") as upstream,
        asyncio.TaskGroup() as group,
    ):
        watch = UpstreamWatch(upstream, SystemClock())
        running = group.create_task(watch.run())
        await until(lambda: watch.health.cause is UpstreamCause.REFUSED)
        runner = web.AppRunner(web.Application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await until(lambda: watch.health.cause is None)
        await runner.cleanup()
        running.cancel()


async def test_those_who_ask_at_once_share_one_question(silent: int) -> None:
    async with Upstream(f"http://127.0.0.1:{silent}") as upstream:
        watch = UpstreamWatch(upstream, SystemClock())
        knocks = 0
        knock = upstream.knock

        async def counted() -> None:
            nonlocal knocks
            knocks += 1
            await knock()

        upstream.knock = counted  # type: ignore[method-assign]
        await asyncio.gather(*(watch.ask() for _ in range(5)))
        assert knocks == 1
