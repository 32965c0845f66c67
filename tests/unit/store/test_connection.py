"""The pool's own promises: deadlines, host names, errors that tell nothing secret."""

from __future__ import annotations

from itertools import islice
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

from infra.store.connection import client_name, connect, dedicated, delays, translate
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


def test_a_tls_connection_checks_the_host_name() -> None:
    connection = one_of(connect("rediss://redis.example:6380", timeout_s=3, name="x"))

    assert connection.check_hostname
    assert connection.ssl_context.get().check_hostname


def test_only_a_url_without_certificates_goes_unchecked() -> None:
    url = "rediss://localhost:6380?ssl_cert_reqs=none"
    connection = one_of(connect(url, timeout_s=3, name="x"))

    assert not connection.ssl_context.get().check_hostname


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
