"""The Redis pool: deadlines on everything, TLS with host name check, JSON-friendly, nothing shared
between requests. `translate()` turns redis-py's errors into ours at the seam.

arq's own `RedisSettings` are not used: they cannot set a read deadline, drop TLS options and print
the password.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra.wire.errors import StoreUnavailable

CONNECT_TIMEOUT_S = 2.0
CONNECTIONS_MAX = 64

FAULTS: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)
"""What redis-py raises when Redis is away, slow, full or not ours to write."""


def connect(url: str, *, timeout_s: float, name: str) -> Redis:
    """A client with a pool of its own. Connects on first use; `aclose()` it.

    `decode_responses` is off: values are bytes. Raises `ValueError` for a URL that is none.

    One retry covers a pooled connection that died unnoticed and a primary that became a replica;
    every write of ours may be repeated. A timeout is not retried: its caller has waited enough.
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
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    if url.startswith("rediss:"):
        # redis-py leaves the host name unchecked. Only a URL that gives up certificates altogether
        # (ssl_cert_reqs=none, for a test) goes without.
        unchecked = dict(parse_url(url)).get("ssl_cert_reqs") == "none"
        options["ssl_check_hostname"] = not unchecked
    pool = BlockingConnectionPool.from_url(url, **options)
    pool.connection_class = _cancellable(pool.connection_class)
    return Redis.from_pool(pool)


def dedicated(redis: Redis, *, timeout_s: float | None, purpose: str) -> Redis:
    """A client to the same Redis with its own few connections and another read deadline.

    For what waits long: a subscription, a blocking pop. It never retries by itself, so that its
    user learns of every lost connection. `aclose()` it.
    """
    pool = redis.connection_pool
    options = dict(pool.connection_kwargs)
    for shared in ("retry", "retry_on_error", "retry_on_timeout", "event_dispatcher"):
        options.pop(shared, None)
    options["socket_timeout"] = timeout_s
    if name := options.get("client_name"):
        options["client_name"] = client_name(f"{name}-{purpose}")
    return Redis.from_pool(
        BlockingConnectionPool(
            max_connections=4,
            timeout=5,
            connection_class=_cancellable(pool.connection_class),
            **options,
        )
    )


@contextmanager
def translate() -> Iterator[None]:
    """Redis and socket errors inside become `StoreUnavailable`."""
    try:
        yield
    except FAULTS as error:
        raise StoreUnavailable(_explain(error)) from error


def delays(*, first_s: float = 0.05, most_s: float = 2.0) -> Iterator[float]:
    """Pauses between attempts, for ever: doubling up to a bound, with jitter."""
    delay = first_s
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, most_s)


class _Cancellable(AbstractConnection):
    """A connection whose sending never swallows a cancellation.

    redis-py puts `asyncio.wait_for` around each send that has a deadline. On Python 3.11 that loses
    a cancellation which arrives in the moment the send is done: the cancelled task goes on, and an
    `asyncio.timeout` around it never fires.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        deadline_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(deadline_s):
                await super().send_packed_command(command, check_health)
        except TimeoutError:
            raise RedisTimeoutError("Timeout writing to socket") from None
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
    # A pipeline's error quotes the whole command, arguments and all: only its cause is for logs.
    said = str(error).rpartition("caused error: ")[2]
    return f"{type(error).__name__}: {said[:200]}"
