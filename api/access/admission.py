"""Decides who may send requests, and how many. Every route that needs a key asks here.

The form of a key is checked first, then the upstream is asked (`api.access.key_check`, mostly from
memory), then the tenant's requests of the last minute are counted. Bad keys are counted by the
address they come from. Beyond that limit a key is accepted only if it is known to be good. So the
mistakes of one user (or an attacker) do not lock out others behind the same load balancer or chat
server, and nobody can keep guessing keys, here or at the upstream.

While Redis is unavailable, nothing is counted, and everybody with a good key is accepted.
"""

from __future__ import annotations

import ipaddress
import logging
import math

from starlette.requests import Request

from api.access.key_check import KeyCheck
from api.http.auth import KEY_MIN_CHARS, Caller, authenticate
from api.http.edge import ANSWER_HEADERS
from infra.runtime.clock import Clock
from infra.runtime.identity import address_id
from infra.runtime.logs import fields
from infra.runtime.settings import LimitSettings
from infra.store.access.rates import Rate, Rates
from infra.wire.errors import ErrorCode, RequestRefused, StoreUnavailable
from infra.wire.text.words import Case, refused

log = logging.getLogger(__name__)

BAD_KEYS = "keys"
REQUESTS = "requests"
SILENT_S = 10.0
"""Seconds between two log lines that say that requests cannot be counted."""
_NETWORK_BITS = 64
"""The prefix of an IPv6 address that one customer has, and may use any address of."""


class Admission:
    """Asked before a request's body is read, so that nobody without a good key makes us hold
    one."""

    def __init__(
        self,
        settings: LimitSettings,
        *,
        secret: bytes,
        key_check: KeyCheck,
        rates: Rates,
        clock: Clock,
        key_min_chars: int = KEY_MIN_CHARS,
    ) -> None:
        """`key_min_chars`: shorter keys are malformed."""
        self._requests_max = settings.tenant_requests_per_min
        self._failures_max = settings.key_failures_per_min
        self._secret = secret
        self._key_min_chars = key_min_chars
        self._key_check = key_check
        self._rates = rates
        self._clock = clock
        self._said_s = -math.inf

    async def admit(self, request: Request) -> Caller:
        """The caller. Raises `RequestRefused` (401, 429)."""
        caller = await self._identify(request)
        await self._let_in(request, caller)
        return caller

    async def greet(self, request: Request) -> Caller | None:
        """The caller of a route that needs no key; None without a key.

        A key that is sent must be good nevertheless, because chat programs check keys this way.
        Raises `RequestRefused` (401, 429).
        """
        try:
            caller = await self._identify(request)
        except RequestRefused as refusal:
            if refusal.code is ErrorCode.MISSING_KEY:
                return None
            raise
        await self._require_good(request, caller)
        return caller

    async def _identify(self, request: Request) -> Caller:
        """The key's owner, by its form. Raises `RequestRefused` (401, 429)."""
        try:
            return authenticate(
                request.headers, secret=self._secret, key_min_chars=self._key_min_chars
            )
        except RequestRefused as refusal:
            if refusal.code is ErrorCode.INVALID_KEY:
                await self._count_bad_key(request)
            raise

    async def _let_in(self, request: Request, caller: Caller) -> None:
        """Accept the caller. Raises `RequestRefused` (401, 429)."""
        await self._require_good(request, caller)
        if self._requests_max:
            await self._count_request(request, caller)

    async def _require_good(self, request: Request, caller: Caller) -> None:
        try:
            await self._key_check.require_good(
                caller, before_asking=lambda: self._require_few_bad_keys(request)
            )
        except RequestRefused as refusal:
            if refusal.code is ErrorCode.INVALID_KEY:
                await self._count_bad_key(request)
            raise

    async def _count_request(self, request: Request, caller: Caller) -> None:
        try:
            rate = await self._rates.hit(REQUESTS, caller.tenant, per_min=self._requests_max)
        except StoreUnavailable as error:
            self._cannot_count(error)
            return
        request.scope["state"][ANSWER_HEADERS] |= {
            "x-ratelimit-limit-requests": str(rate.limit),
            "x-ratelimit-remaining-requests": str(rate.remaining),
            "x-ratelimit-reset-requests": f"{rate.reset_s:.1f}s",
        }
        if rate.is_exceeded:
            raise refused(
                Case.KEY_TOO_OFTEN, retry_after_s=math.ceil(rate.reset_s), limit=rate.limit
            )

    async def _count_bad_key(self, request: Request) -> None:
        """Raises `RequestRefused` if there were already too many."""
        if not self._failures_max:
            return
        who = self._address(request)
        try:
            rate = await self._rates.hit(BAD_KEYS, who, per_min=self._failures_max)
        except StoreUnavailable as error:
            self._cannot_count(error)
            return
        if rate.is_exceeded:
            raise _too_many_bad_keys(who, rate)

    async def _require_few_bad_keys(self, request: Request) -> None:
        if not self._failures_max:
            return
        who = self._address(request)
        try:
            rate = await self._rates.look(BAD_KEYS, who, per_min=self._failures_max)
        except StoreUnavailable as error:
            self._cannot_count(error)
            return
        if rate.is_exceeded:
            raise _too_many_bad_keys(who, rate)

    def _address(self, request: Request) -> str:
        host = request.client.host if request.client else ""
        return address_id(self._secret, network_of(host))

    def _cannot_count(self, error: StoreUnavailable) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._said_s >= SILENT_S:
            self._said_s = now_s
            log.warning("requests are let in uncounted: %s", error)


def network_of(host: str) -> str:
    """What identifies one client: an IPv4 address, an IPv6 network, otherwise the text as it is."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _NETWORK_BITS), strict=False))


def _too_many_bad_keys(who: str, rate: Rate) -> RequestRefused:
    log.warning("an address tries too many bad keys", extra=fields(address=who))
    return refused(Case.BAD_KEYS, retry_after_s=math.ceil(rate.reset_s))
