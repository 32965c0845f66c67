"""Connects to the model: one HTTP client for the whole gateway."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import AsyncIterable
from dataclasses import dataclass
from io import BytesIO
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from infra.metrics.gateway import MODEL_HEAD_SECONDS


@dataclass(frozen=True)
class UpstreamTimeouts:
    """An answer may take any time in total, but silence is limited."""

    connect_s: float = 10.0
    silence_s: float = 300.0


class Upstream:
    """Sends requests to the configured server of the Messages API, and nowhere else.

    TLS certificates are checked. Redirects are not followed, because they would carry the key
    elsewhere. Bodies are passed on unchanged, so compressed ones stay compressed.
    """

    def __init__(self, base_url: str, *, timeouts: UpstreamTimeouts | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeouts = timeouts or UpstreamTimeouts()
        self._proxy = proxy_for(self._base_url)
        self._http: aiohttp.ClientSession | None = None

    @property
    def host(self) -> str:
        """Its name for people: without user, path and the usual port."""
        parts = urlsplit(self._base_url)
        name = parts.hostname or ""
        return f"{name}:{parts.port}" if parts.port else name

    async def knock(self) -> None:
        """Ask for nothing, without a key. Returns if it answers, whatever it says.

        Raises `aiohttp.ClientError`, `OSError` or `TimeoutError`.
        """
        assert self._http is not None
        answer = await self._http.head(
            URL(self._base_url, encoded=True), allow_redirects=False, proxy=self._proxy
        )
        answer.close()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self._timeouts.connect_s,
                sock_connect=self._timeouts.connect_s,
                sock_read=self._timeouts.silence_s,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._http is not None
        await self._http.close()

    async def send(
        self, path: str, headers: CIMultiDict[str], body: BytesIO | AsyncIterable[bytes]
    ) -> aiohttp.ClientResponse:
        """The answer, as soon as its headers have arrived; the caller closes it.

        Raises `aiohttp.ClientError`, `OSError` or `TimeoutError`.
        """
        assert self._http is not None
        began_s = time.perf_counter()
        answer = await self._http.post(
            URL(self._base_url + path, encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
            proxy=self._proxy,
        )
        MODEL_HEAD_SECONDS.observe(time.perf_counter() - began_s)
        return answer


def proxy_for(url: str) -> str | None:
    """The operator's HTTP proxy for this URL, from the environment (`HTTPS_PROXY`, `NO_PROXY`).

    Read here because aiohttp's own reading of the environment also reads `~/.netrc` and would add
    credentials of its own to requests.
    """
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    if parts.hostname in ("localhost", "127.0.0.1", "::1"):
        return None
    return urllib.request.getproxies().get(parts.scheme)
