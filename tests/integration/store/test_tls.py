"""TLS towards a real redis-server and real Sentinels: who is trusted, what is said otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from infra.store.server.commands import runner_of
from infra.store.server.connection import connect, dedicated, translate
from infra.store.server.tls import TlsFiles
from infra.wire.errors import StoreUnavailable
from tests.fakes.certificates import Certificates, KeyPair, certificates
from tests.fakes.redis_sentinel import sentinels
from tests.fakes.redis_server import RealRedis, real_redis

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def tls_redis(
    made: Certificates, shown: KeyPair, *, wants_certificate: bool = False
) -> AsyncIterator[RealRedis]:
    """A server that shows this certificate."""
    options = (
        *("--tls-cert-file", str(shown.certificate), "--tls-key-file", str(shown.key)),
        *("--tls-ca-cert-file", str(made.ca)),
        *("--tls-auth-clients", "yes" if wants_certificate else "no"),
    )
    async with real_redis(options=options, tls=True) as server:
        yield server


async def ask(url: str, files: TlsFiles) -> None:
    """Over a pooled connection, the one for commands, and one that stays."""
    client = connect(url, timeout_s=5, name="test", tls=files)
    waiting = dedicated(client, timeout_s=5, purpose="bell")
    try:
        with translate():
            assert await client.ping()
            assert await runner_of(client).run("PING")
            assert await waiting.ping()
    finally:
        await client.aclose()
        await waiting.aclose()


@pytest.mark.parametrize("is_tls", [True, False])
def test_the_connection_for_commands_works_on_the_loop_of_the_programs(
    made: Certificates, is_tls: bool
) -> None:
    """uvloop's transports are handed over too, and more is sent at once than they take."""

    async def ask_much() -> None:
        async with tls_redis(made, made.good) as server:
            url = server.tls_url() if is_tls else server.url
            files = TlsFiles(ca=made.ca) if is_tls else TlsFiles()
            client = connect(url, timeout_s=20, name="test", tls=files)
            try:
                asked = [client.commands.run("ECHO", f"{i} ".ljust(60_000)) for i in range(100)]
                answers = await asyncio.gather(*asked)
                assert [int(answer.split()[0]) for answer in answers] == [*range(100)]
            finally:
                await client.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask_much())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_certificate_of_our_ca_for_this_host_is_trusted(
    made: Certificates, host: str
) -> None:
    async with tls_redis(made, made.good) as server:
        await ask(server.tls_url(host), TlsFiles(ca=made.ca))
        await ask(f"{server.tls_url(host)}?ssl_ca_certs={made.ca}", TlsFiles())


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("elsewhere", "Hostname mismatch"),
        ("stranger", "unable to get local issuer"),
        ("expired", "certificate has expired"),
    ],
)
async def test_any_other_certificate_is_refused_with_its_reason(
    made: Certificates, shown: str, said: str
) -> None:
    async with tls_redis(made, getattr(made, shown)) as server:
        with pytest.raises(StoreUnavailable, match=f"certificate is refused: .*{said}") as raised:
            await ask(server.tls_url(), TlsFiles(ca=made.ca))
        assert "AGCLUSTER_REDIS_CA_FILE" in str(raised.value)


async def test_a_ca_nobody_named_is_unknown(made: Certificates) -> None:
    async with tls_redis(made, made.good) as server:
        with pytest.raises(StoreUnavailable, match="certificate is refused"):
            await ask(server.tls_url(), TlsFiles())


async def test_a_server_that_wants_our_certificate_gets_it(made: Certificates) -> None:
    async with tls_redis(made, made.good, wants_certificate=True) as server:
        ours = made.client
        await ask(server.tls_url(), TlsFiles(made.ca, ours.certificate, ours.key))
        with pytest.raises(StoreUnavailable):
            await ask(server.tls_url(), TlsFiles(made.ca))


async def test_sentinels_and_their_primary_are_reached_over_tls(made: Certificates) -> None:
    async with sentinels(tls=made) as cluster:
        await ask(cluster.url, TlsFiles(ca=made.ca))
        with pytest.raises(StoreUnavailable, match="no Sentinel knows"):
            await ask(cluster.url, TlsFiles(ca=made.stranger.certificate))
