"""The pool's own promises: deadlines, host names, errors that tell nothing secret."""

from __future__ import annotations

import ssl
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import (
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra.store.server.connection import client_name, connect, dedicated, translate
from infra.store.server.faults import delays
from infra.store.server.sentinels import parse_sentinel_url
from infra.store.server.tls import TlsFiles
from infra.wire.errors import LeaseLost, StoreUnavailable


def options(url: str) -> dict[str, Any]:
    return connect(url, timeout_s=3, name="agc api").connection_pool.connection_kwargs


def one_of(client: Redis) -> Any:
    """A connection as the pool makes it, not connected."""
    return client.connection_pool.make_connection()  # type: ignore[no-untyped-call]


def test_every_command_has_a_deadline() -> None:
    made = options("redis://localhost:6379/1")

    assert (made["socket_timeout"], made["socket_connect_timeout"]) == (3, 2.0)
    assert made["socket_keepalive"]
    assert made["client_name"] == "agc-api"
    assert made["db"] == 1


def context_of(url: str) -> ssl.SSLContext:
    context: ssl.SSLContext = options(url)["tls"]
    return context


def test_a_tls_connection_checks_certificate_and_host_name() -> None:
    context = context_of("rediss://redis.example:6380")

    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    made = one_of(connect("rediss://redis.example:6380", timeout_s=3, name="x"))
    assert made._connection_arguments()["ssl"].check_hostname


def test_only_a_url_that_says_so_goes_unchecked() -> None:
    unchecked = context_of("rediss://localhost:6380?ssl_cert_reqs=none")
    assert (unchecked.check_hostname, unchecked.verify_mode) == (False, ssl.CERT_NONE)

    nameless = context_of("rediss://localhost:6380?ssl_check_hostname=false")
    assert (nameless.check_hostname, nameless.verify_mode) == (False, ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("rediss://localhost?ssl_ca_certs=/none/ca.pem", "/none/ca.pem"),
        ("rediss://localhost?ssl_cert_reqs=optional", "ssl_cert_reqs"),
        ("rediss://localhost?ssl_sometimes=yes", "ssl_sometimes"),
    ],
)
def test_tls_that_cannot_be_is_refused_by_name(url: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        connect(url, timeout_s=3, name="x")


@pytest.mark.parametrize("url", ["redis://localhost", "unix:///tmp/redis.sock"])
def test_a_ca_without_tls_is_refused(url: str) -> None:
    """Nothing would be checked, though somebody wanted it."""
    with pytest.raises(ValueError, match="rediss://"):
        connect(url, timeout_s=3, name="x", tls=TlsFiles(ca=Path("/etc/ca.pem")))


def test_a_sentinel_url_names_sentinels_service_database_and_credentials() -> None:
    place = parse_sentinel_url(
        "redis+sentinel://api:p%40ss%2Fw@one:26379,two,[::1]:5000/orders/3"
        "?sentinel_username=watch&sentinel_password=s%26cret&health_check_interval=9"
    )

    assert place.sentinels == [("one", 26379), ("two", 26379), ("::1", 5000)]
    assert (place.service, place.is_tls) == ("orders", False)
    assert place.options == {
        "db": 3, "username": "api", "password": "p@ss/w", "health_check_interval": 9
    }  # fmt: skip
    assert place.sentinel_options == {"username": "watch", "password": "s&cret"}


def test_a_short_sentinel_url_means_what_everybody_means() -> None:
    place = parse_sentinel_url("rediss+sentinel://one")

    assert (place.sentinels, place.service, place.is_tls) == ([("one", 26379)], "mymaster", True)
    assert place.options == {}


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel:///mymaster", "redis+sentinel://a,,b", "redis+sentinel://u:secret@a/m/x"],
)
def test_a_sentinel_url_that_names_nobody_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="Sentinel URL") as raised:
        connect(url, timeout_s=3, name="x")
    assert "secret" not in str(raised.value)


def test_connections_to_a_primary_are_bounded_like_any_other() -> None:
    client = connect("redis+sentinel://one,two/m", timeout_s=3, name="api")
    made = one_of(client)
    blocking = one_of(dedicated(client, timeout_s=9, purpose="bell"))

    assert (made.socket_timeout, made.socket_connect_timeout) == (3, 2.0)
    assert (blocking.socket_timeout, blocking.client_name) == (9, "api-bell")
    assert made.socket_keepalive
    assert made._primary is blocking._primary, "what one pool learns holds for all"


def test_a_password_with_odd_signs_arrives_whole() -> None:
    made = options("redis://user:p%40ss%2Fword@localhost:6379")

    assert (made["username"], made["password"]) == ("user", "p@ss/word")


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="redis://"):
        connect("http://localhost", timeout_s=3, name="x")


def test_a_dedicated_client_has_its_own_deadline_and_never_retries() -> None:
    client = connect("unix:///tmp/redis.sock", timeout_s=3, name="api")
    connection = one_of(dedicated(client, timeout_s=9, purpose="live"))

    assert connection.socket_timeout == 9
    assert connection.client_name == "api-live"
    assert connection.path == "/tmp/redis.sock"
    assert connection.retry_on_error == []


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("gone"),
        RedisTimeoutError("slow"),
        BusyLoadingError("loading"),
        ReadOnlyError("replica"),
        OutOfMemoryError("full"),
        ResponseError("Error running script: -OOM command not allowed"),
        ConnectionResetError(104, "reset"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_redis_raises_is_store_unavailable(error: Exception) -> None:
    with pytest.raises(StoreUnavailable) as raised, translate():
        raise error
    assert raised.value.__cause__ is error


def test_our_own_errors_pass() -> None:
    with pytest.raises(LeaseLost), translate():
        raise LeaseLost("c", 1)


def test_an_error_never_quotes_the_command() -> None:
    quoted = "Command # 1 (SET agc:turn:x sealed-key) of pipeline caused error: ('OOM full',)"
    with pytest.raises(StoreUnavailable, match="OOM full") as raised, translate():
        raise ResponseError(quoted)
    assert "sealed-key" not in str(raised.value)


def test_pauses_grow_to_a_bound() -> None:
    pauses = list(islice(delays(first_s=0.1, most_s=1.0), 10))

    assert all(0.05 <= pause <= 1.0 for pause in pauses)
    assert max(pauses[:2]) <= 0.2
    assert min(pauses[5:]) >= 0.5


def test_a_client_name_has_no_blanks() -> None:
    assert client_name("agc api\n1") == "agc-api-1"
