"""Knows whether the model's service answers, and if not, why.

Calls of turns tell it as they go. While the service does not answer, and once at the start, it is
asked by itself: without a key, for nothing. Whatever it answers is a sign of life.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl

import aiohttp

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.wire.gateway import UpstreamError, UpstreamHealth
from infra.wire.model.upstream_cause import UpstreamCause
from worker.gateway.model.upstream import Upstream

log = logging.getLogger(__name__)

PROBE_S = 5.0
"""Seconds that an answer may take."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0


class UpstreamWatch:
    """What is known of the model's service. `run` must be running."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self._cause: UpstreamCause | None = None
        self._since_ms: int | None = None
        """Since when what is known is so; None: nothing is known."""
        self._doubtful = asyncio.Event()
        self._doubtful.set()
        self._asking: asyncio.Future[None] | None = None

    @property
    def health(self) -> UpstreamHealth:
        """What is known now."""
        return UpstreamHealth(host=self._upstream.host, cause=self._cause, since_ms=self._since_ms)

    def answered(self) -> None:
        """It has answered a call, whatever it said."""
        self._know(None)
        self._doubtful.clear()

    def failed(self, error: Exception) -> None:
        """It has not answered a call."""
        self._know(cause_of(error))
        self._doubtful.set()

    def error_of(self, error: Exception) -> UpstreamError:
        """It has not answered a call: what its turn is told."""
        self.failed(error)
        return UpstreamError(status=502, kind="unreachable", away=self.health)

    async def run(self) -> None:
        """Ask until it is known to answer, and again whenever it does not, until cancelled."""
        while True:
            await self._doubtful.wait()
            pause_s = FIRST_PAUSE_S
            while self._doubtful.is_set():
                await self.ask()
                if self._doubtful.is_set():
                    await self._clock.sleep(pause_s)
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def ask(self) -> UpstreamHealth:
        """Ask now, or wait for the question that is under way, and return what is known then."""
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_future()
            asking = self._asking
            try:
                await self._ask()
            finally:
                self._asking = None
                asking.set_result(None)
        else:
            await asyncio.shield(self._asking)
        return self.health

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._upstream.knock()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failed(error)
        else:
            self.answered()

    def _know(self, cause: UpstreamCause | None) -> None:
        if self._since_ms is not None and cause is self._cause:
            return
        was, self._cause = self._cause, cause
        is_news = cause is not None or was is not None
        self._since_ms = self._clock.unix_ms()
        if is_news:
            told = fields(host=self._upstream.host, cause=cause)
            log.warning("upstream away" if cause else "upstream back", extra=told)


def cause_of(error: BaseException) -> UpstreamCause:
    """Why a server did not answer."""
    inner = getattr(error, "os_error", None) or error.__cause__
    for found in (error, inner):
        match found:
            case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
                return UpstreamCause.CERTIFICATE
            case aiohttp.ClientSSLError() | ssl.SSLError():
                return UpstreamCause.TLS
            case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
                return UpstreamCause.PROXY
            case socket.gaierror() | aiohttp.ClientConnectorDNSError():
                return UpstreamCause.NAME
            case ConnectionRefusedError():
                return UpstreamCause.REFUSED
            case TimeoutError():
                return UpstreamCause.TIMEOUT
    return UpstreamCause.BROKEN
