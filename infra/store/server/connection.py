"""The Redis pool: deadlines on everything, TLS with host name check, nothing shared between
requests. `translate()` turns redis-py's errors into ours.

arq's own `RedisSettings` are not used: they cannot set a read deadline, drop TLS options and print
the password.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra.store.server.commands import PooledCommands, StoreClient
from infra.store.server.faults import FAULTS
from infra.store.server.pipelined import PipelinedCommands
from infra.store.server.sentinels import (
    ASK_TIMEOUT_S,
    Primary,
    PrimaryConnection,
    SentinelPlace,
    parse_sentinel_url,
)
from infra.store.server.sentinels import SCHEMES as SENTINEL_SCHEMES
from infra.store.server.tls import TlsConnection, TlsFiles, take_tls, tls_fault
from infra.wire.errors import StoreUnavailable

CONNECT_TIMEOUT_S = 2.0
ESTABLISH_TIMEOUT_S = 5.0
"""Seconds within which a new connection must be resolved, connected, secured and authenticated."""
CONNECTIONS_MAX = 64
NO_FILES = TlsFiles()

KEEPALIVE: dict[str, Any] = {
    "socket_keepalive": True,
    # A peer that vanished is noticed within two minutes, idle or not (where the system can).
    "socket_keepalive_options": {
        getattr(socket, name): value
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    },
}


def connect(url: str, *, timeout_s: float, name: str, tls: TlsFiles = NO_FILES) -> StoreClient:
    """A client with a pool of its own, and one connection for commands
    (`infra.store.server.pipelined`). Connects on first use; close it with `aclose()`.

    `redis://`, `rediss://`, `unix://`, or `redis+sentinel://` and `rediss+sentinel://`
    (`infra.store.server.sentinels`). `decode_responses` is off: values are bytes. Raises
    `ValueError` for an invalid URL or invalid certificate files.

    One retry covers a pooled connection that died unnoticed, and a primary that became a replica;
    all our writes may be repeated. A timeout is not retried, because its caller has waited long
    enough.
    """
    options: dict[str, Any] = {
        "max_connections": CONNECTIONS_MAX,
        "timeout": timeout_s,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "client_name": client_name(name),
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), 1, (RedisConnectionError,)),
        "retry_on_error": [RedisConnectionError, ReadOnlyError],
    }
    options |= _place(url, tls)
    options["connection_class"] = _cancellable(options["connection_class"])
    client = StoreClient.from_pool(BlockingConnectionPool(**options))
    assert isinstance(client, StoreClient)
    client.commands = PipelinedCommands(
        partial(_own_connection, client.connection_pool, timeout_s),
        timeout_s=timeout_s,
        big=PooledCommands(client),
    )
    return client


def _own_connection(pool: ConnectionPool, timeout_s: float) -> AbstractConnection:
    options = _own_options(pool, timeout_s=timeout_s, purpose="commands")
    return pool.connection_class(**options)


def _place(url: str, files: TlsFiles) -> dict[str, Any]:
    """Connection class and arguments for a URL."""
    scheme = url.partition(":")[0]
    if scheme in SENTINEL_SCHEMES:
        return _sentinel_place(parse_sentinel_url(url), files)
    options: dict[str, Any] = dict(parse_url(url))
    if scheme == "unix":
        _refuse(files, "a Unix socket")
        return options
    transport = _transport(options, files, is_tls=scheme == "rediss")
    return KEEPALIVE | options | transport


def _sentinel_place(place: SentinelPlace, files: TlsFiles) -> dict[str, Any]:
    options = dict(place.options)
    transport = _transport(options, files, is_tls=place.is_tls)
    asking = {"socket_timeout": ASK_TIMEOUT_S, "socket_connect_timeout": ASK_TIMEOUT_S}
    primary = Primary(
        place.sentinels, place.service, {**transport, **asking, **place.sentinel_options}
    )
    bases = (PrimaryConnection, transport["connection_class"])
    transport |= {"connection_class": type("FollowingConnection", bases, {}), "primary": primary}
    return KEEPALIVE | options | transport


def _transport(options: dict[str, Any], files: TlsFiles, *, is_tls: bool) -> dict[str, Any]:
    """Moves the TLS options out of the options."""
    if is_tls:
        return {"connection_class": _cancellable(TlsConnection), "tls": take_tls(options, files)}
    _refuse(files, "one without TLS")
    return {"connection_class": _cancellable(Connection)}


def _refuse(files: TlsFiles, what: str) -> None:
    if files:
        raise ValueError(f"certificates are set, but the URL is {what}: use rediss://")


def dedicated(redis: Redis, *, timeout_s: float | None, purpose: str) -> Redis:
    """A client to the same Redis with a few connections of its own and another read deadline.

    For calls that wait long: a subscription, a blocking pop. It never retries, so that its user
    learns of every lost connection. Close it with `aclose()`.
    """
    pool = redis.connection_pool
    options = _own_options(pool, timeout_s=timeout_s, purpose=purpose)
    return Redis.from_pool(
        BlockingConnectionPool(
            max_connections=4,
            timeout=5,
            connection_class=_cancellable(pool.connection_class),
            **options,
        )
    )


def _own_options(pool: ConnectionPool, *, timeout_s: float | None, purpose: str) -> dict[str, Any]:
    """For a connection to the same Redis, outside the pool and without its retries."""
    options = dict(pool.connection_kwargs)
    for shared in ("retry", "retry_on_error", "retry_on_timeout", "event_dispatcher"):
        options.pop(shared, None)
    options["socket_timeout"] = timeout_s
    if name := options.get("client_name"):
        options["client_name"] = client_name(f"{name}-{purpose}")
    return options


@contextmanager
def translate() -> Iterator[None]:
    """Redis and socket errors inside the block become `StoreUnavailable`."""
    try:
        yield
    except FAULTS as error:
        raise StoreUnavailable(_explain(error)) from error


def is_answered(error: StoreUnavailable) -> bool:
    """Whether Redis answered, with an error: asking again the same way may not help."""
    return isinstance(error.__cause__, ResponseError)


def is_refused(error: StoreUnavailable) -> bool:
    """Whether Redis answered that its user may not do that."""
    return isinstance(error.__cause__, NoPermissionError)


class _Cancellable(AbstractConnection):
    """A connection with a deadline for connecting as a whole, and whose sends never swallow a
    cancellation.

    redis-py has a deadline for each step of connecting, and wraps each send that has one in
    `asyncio.wait_for`. On Python 3.11 that loses a cancellation that arrives at the moment the send
    completes: the cancelled task continues, and an `asyncio.timeout` around it never fires.
    """

    async def connect(self) -> None:
        if self.is_connected:
            return
        try:
            async with asyncio.timeout(ESTABLISH_TIMEOUT_S):
                await super().connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("Timeout connecting to server") from None
        except BaseException:
            # A connection that was not fully authenticated must not look like one that was.
            await self.disconnect(nowait=True)
            raise

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        deadline_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(deadline_s):
                await super().send_packed_command(command, check_health)
        except TimeoutError:
            raise RedisTimeoutError("Timeout writing to socket") from None
        except RuntimeError as error:  # uvloop's word for a connection that is closed already
            raise RedisConnectionError("the connection is closed") from error
        finally:
            self.socket_timeout = deadline_s


def _cancellable(connection: type[AbstractConnection]) -> type[AbstractConnection]:
    if issubclass(connection, _Cancellable):
        return connection
    return type(connection.__name__, (_Cancellable, connection), {})


def client_name(name: str) -> str:
    """A name CLIENT SETNAME accepts."""
    return re.sub(r"[^!-~]+", "-", name)


def _explain(error: Exception) -> str:
    if fault := tls_fault(error):
        return f"{type(error).__name__}: {fault}"
    # A pipeline's error quotes the whole command with its arguments, so only its cause is logged.
    said = str(error).rpartition("caused error: ")[2]
    return f"{type(error).__name__}: {said[:200]}"
