"""A connection to the engine: a session with a limited number of connections and limited
answers."""

from __future__ import annotations

import asyncio

import aiohttp

from worker.engine_proxy.mounts import EngineCallRefused
from worker.engine_proxy.rules import Json

ANSWER_MAX_BYTES = 16 * 1024 * 1024
_BASE = "http://engine"


class EngineLine:
    """Used between `setup` and `aclose`. Calls beyond `connections` wait."""

    def __init__(self, socket: str, *, connections: int, call_timeout_s: float) -> None:
        self._socket = socket
        self._connections = connections
        self._call_timeout_s = call_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def setup(self) -> None:
        """Prepare to call the engine."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=self._socket, limit=self._connections),
            headers={"Accept-Encoding": "identity"},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Json = None,
        more_s: float = 0.0,
    ) -> tuple[int, bytes]:
        """Status and answer of a call. Raises `EngineCallRefused`, `aiohttp.ClientError`,
        `OSError`."""
        async with (
            asyncio.timeout(self._call_timeout_s + more_s),
            self._opened.request(method, _BASE + path, params=query, json=body) as answer,
        ):
            told = bytearray()
            async for part in answer.content.iter_any():
                told += part
                if len(told) > ANSWER_MAX_BYTES:
                    raise EngineCallRefused("the engine's answer is too long")
            return answer.status, bytes(told)

    def stream(
        self, path: str, query: dict[str, str]
    ) -> aiohttp.client._BaseRequestContextManager[aiohttp.ClientResponse]:
        """An answer that lasts as long as both sides live. It is mostly silent."""
        endless = aiohttp.ClientTimeout(total=None, sock_connect=self._call_timeout_s)
        return self._opened.get(_BASE + path, params=query, timeout=endless)

    @property
    def _opened(self) -> aiohttp.ClientSession:
        assert self._session is not None, "not set up"
        return self._session
