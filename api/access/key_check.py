"""Checks whether the upstream accepts a caller's key, before anything is started for it.

One cheap request (`GET /v1/models`) per tenant, cached in Redis for all replicas and in memory for
this one. Concurrent callers of the same tenant wait for the same answer. Only a clear refusal
counts: if the upstream cannot say, the turn itself will show.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

import httpx

from api.http.auth import Caller
from infra.metrics.api import KEY_CHECKS
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.access.key_verdicts import KeyVerdicts
from infra.wire.errors import ErrorCode, RequestRefused, StoreUnavailable
from infra.wire.ids import TenantId

log = logging.getLogger(__name__)

TIMEOUT_S = 1.5
REFUSED_TTL_S = 60.0
UNKNOWN_TTL_S = 5.0
REMEMBERED_MAX = 10_000
ANTHROPIC_VERSION = "2023-06-01"


BeforeAsking = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    return None


@dataclass(frozen=True)
class _Verdict:
    is_accepted: bool | None
    until_s: float


class KeyCheck:
    """Checks keys and caches the result. With `enabled` false every key is accepted."""

    def __init__(
        self,
        upstream: httpx.AsyncClient,
        verdicts: KeyVerdicts,
        clock: Clock,
        *,
        base_url: str,
        accepted_ttl_s: float,
        enabled: bool = True,
    ) -> None:
        self._upstream = upstream
        self._verdicts = verdicts
        self._clock = clock
        self._url = f"{base_url}/v1/models"
        self._accepted_ttl_s = accepted_ttl_s
        self._enabled = enabled
        self._remembered: OrderedDict[TenantId, _Verdict] = OrderedDict()
        self._under_way: dict[TenantId, tuple[asyncio.Lock, int]] = {}

    async def require_good(self, caller: Caller, *, before_asking: BeforeAsking = _nothing) -> None:
        """Raises `RequestRefused` (401) for a key that the upstream refuses.

        `before_asking` is called, and may refuse, if the key is not known yet.
        """
        if self._enabled and await self._verdict(caller, before_asking) is False:
            raise RequestRefused("", code=ErrorCode.INVALID_KEY)

    async def _verdict(self, caller: Caller, before_asking: BeforeAsking) -> bool | None:
        if (known := self._recall(caller.tenant)) is not None:
            return known.is_accepted
        with self._turnstile(caller.tenant) as lock:
            async with lock:
                if (known := self._recall(caller.tenant)) is not None:
                    return known.is_accepted
                verdict, ttl_s = await self._find_out(caller, before_asking)
                self._remember(caller.tenant, verdict, ttl_s)
                return verdict

    async def _find_out(
        self, caller: Caller, before_asking: BeforeAsking
    ) -> tuple[bool | None, float]:
        """The verdict and how long it is valid: another replica's, otherwise the upstream's."""
        try:
            shared = await self._verdicts.get(caller.tenant)
        except StoreUnavailable:
            shared = None
        if shared is not None:
            # It may expire there soon, so it is not trusted for its full lifetime here.
            return shared, UNKNOWN_TTL_S
        await before_asking()
        verdict = await self._ask(caller)
        if verdict is None:
            return None, UNKNOWN_TTL_S
        ttl_s = self._accepted_ttl_s if verdict else REFUSED_TTL_S
        try:
            await self._verdicts.put(caller.tenant, verdict, ttl_s=ttl_s)
        except StoreUnavailable:
            log.warning("key verdict not shared: the store is away")
        return verdict, ttl_s

    async def _ask(self, caller: Caller) -> bool | None:
        headers = {"x-api-key": caller.api_key, "anthropic-version": ANTHROPIC_VERSION}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._upstream.get(self._url, params={"limit": 1}, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            KEY_CHECKS.labels("unanswered").inc()
            log.warning("key check got no answer", extra=fields(error=type(error).__name__))
            return None
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            KEY_CHECKS.labels("refused").inc()
            log.info("key refused upstream", extra=fields(tenant=caller.tenant))
            return False
        KEY_CHECKS.labels("accepted" if answer.is_success else "unanswered").inc()
        return True if answer.is_success else None

    def _recall(self, tenant: TenantId) -> _Verdict | None:
        known = self._remembered.get(tenant)
        return known if known and self._clock.monotonic() < known.until_s else None

    def _remember(self, tenant: TenantId, verdict: bool | None, ttl_s: float) -> None:
        self._remembered[tenant] = _Verdict(verdict, self._clock.monotonic() + ttl_s)
        self._remembered.move_to_end(tenant)
        while len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)

    @contextmanager
    def _turnstile(self, tenant: TenantId) -> Iterator[asyncio.Lock]:
        """The tenant's lock, kept while somebody waits for it."""
        lock, waiting = self._under_way.get(tenant, (None, 0))
        lock = lock or asyncio.Lock()
        self._under_way[tenant] = (lock, waiting + 1)
        try:
            yield lock
        finally:
            _, waiting = self._under_way.pop(tenant)
            if waiting > 1:
                self._under_way[tenant] = (lock, waiting - 1)
