"""A reliable subscription: one connection that is watched, and renewed when it dies.

redis-py reconnects a subscription silently, only when polled, and never notices a connection whose
packets are dropped. Both lose messages unnoticed. Here a silent connection is pinged, one that does
not answer is dropped, and every new subscription is reported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection

from infra.store.server.connection import CONNECT_TIMEOUT_S, dedicated
from infra.store.server.faults import FAULTS, delays
from infra.store.server.sentinels import Primary

PING_AFTER_S = 2.0
"""Seconds of silence after which a subscription is pinged."""
ANSWER_WITHIN_S = 3.0
"""Seconds within which it has to answer, or the connection is dropped."""

_SWITCH = "+switch-master"

log = logging.getLogger(__name__)


async def listen(
    redis: Redis,
    channel: str,
    *,
    purpose: str,
    ping_after_s: float = PING_AFTER_S,
    answer_within_s: float = ANSWER_WITHIN_S,
) -> AsyncGenerator[bytes | None, None]:
    """Messages of a channel, without end. Close it (`aclosing`).

    Gives None each time the subscription starts: messages before that may have been missed.
    """
    client = dedicated(redis, timeout_s=CONNECT_TIMEOUT_S, purpose=purpose)
    pauses = delays()
    try:
        while True:
            try:
                subscription = _subscription(client, channel, ping_after_s, answer_within_s)
                async with aclosing(subscription) as messages:
                    async for message in messages:
                        if message is None:
                            pauses = delays()
                        yield message
            except FAULTS as error:
                log.warning("subscription to %s lost (%s), renewing", channel, error)
                await asyncio.sleep(next(pauses))
    finally:
        await _close(client)


async def follow_primary(redis: Redis) -> None:
    """Listen for failovers reported by the Sentinels, if there are any, until cancelled.

    Otherwise a process would learn of a failover only from a failing command, and one that is idle
    while the old primary is frozen would keep using it.
    """
    primary: Primary | None = redis.connection_pool.connection_kwargs.get("primary")
    if primary is None:
        await asyncio.Event().wait()
        return
    pauses = delays()
    while True:
        for sentinel in primary.sentinels:
            client = primary.client_of(sentinel)
            try:
                told = _subscription(client, _SWITCH, PING_AFTER_S, ANSWER_WITHIN_S)
                async with aclosing(told) as messages:
                    async for message in messages:
                        pauses = delays()
                        if message is None:
                            primary.doubt()
                            await primary.find()
                        else:
                            primary.announced(message)
            except FAULTS as error:
                log.debug("Sentinel %s:%d lost (%s)", *sentinel, error)
            finally:
                await _close(client)
            await asyncio.sleep(next(pauses))


async def _subscription(
    client: Redis, channel: str, ping_after_s: float, answer_within_s: float
) -> AsyncGenerator[bytes | None, None]:
    """Messages over one connection, until it dies (raises one of `FAULTS`)."""
    async with _pubsub(client) as pubsub:
        async with asyncio.timeout(CONNECT_TIMEOUT_S + answer_within_s):
            await pubsub.subscribe(channel)
        is_pinged = False
        while True:
            silence_s = answer_within_s if is_pinged else ping_after_s
            message: dict[str, Any] | None = await pubsub.get_message(timeout=silence_s)
            if message is not None:
                is_pinged = False
                if message["type"] == "message":
                    yield message["data"]
                elif message["type"] == "subscribe":
                    yield None
            elif is_pinged:
                raise TimeoutError(f"silent for {ping_after_s + answer_within_s:g} s")
            else:
                async with asyncio.timeout(answer_within_s):
                    await pubsub.ping()
                is_pinged = True


@asynccontextmanager
async def _pubsub(client: Redis) -> AsyncGenerator[PubSub, None]:
    pubsub = client.pubsub()
    try:
        yield pubsub
    finally:
        # Dropping the connection ends the subscription and never waits for a dead peer, as an
        # orderly goodbye would.
        # Its stubs say that it has none, but it has once it has subscribed.
        connection: AbstractConnection | None = pubsub.connection
        if connection is not None:
            await connection.disconnect(nowait=True)
        await pubsub.aclose()  # type: ignore[no-untyped-call]


async def _close(client: Redis) -> None:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.aclose()
    except FAULTS as error:
        log.debug("closing a subscription's client: %s", error)
