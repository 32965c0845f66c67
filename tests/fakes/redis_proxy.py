"""A TCP proxy before a redis-server, which does to connections what networks do.

    async with real_redis() as server, redis_proxy(server.url) as proxy:
        client = connect(proxy.url, ...)
        proxy.cut()                                # every connection is reset
        proxy.cut_reply(to=b"EVALSHA", after=5)    # one connection, within the reply to a request
        proxy.black_hole()                         # nothing passes, nothing breaks; both ways
        proxy.black_hole(Way.TO_CLIENT)            # requests arrive, replies do not
        proxy.delay(0.2)                           # everything comes later, each way
        proxy.refuse()                             # new connections are refused; old ones stay
        proxy.hang_new()                           # new connections never come about, nor fail
        proxy.heal()                               # all of that is over

Troubles add up until `heal`. A black hole keeps what it swallowed, as TCP does: after `heal` a
connection that nobody gave up goes on where it was. It passes bytes only and understands none of
them, so it serves any process that is given its URL, TLS included.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing sends RST instead of FIN."""


class Way(StrEnum):
    TO_SERVER = "to_server"
    TO_CLIENT = "to_client"


BOTH_WAYS = (Way.TO_SERVER, Way.TO_CLIENT)


class _Trap:
    """Waits for a request with certain bytes, then cuts its connection within the reply."""

    def __init__(self, to: bytes, after: int) -> None:
        self.to = to
        self.after = after
        self.link: _Link | None = None
        self.sprung = asyncio.Event()


class RedisProxy:
    """TurnFiles by `redis_proxy`."""

    url: str
    """What to connect to in the server's place, with the server's credentials and database."""
    connected: int
    """How many connections were accepted so far."""

    def __init__(self, target: str, host: str) -> None:
        self._target = urlsplit(target)
        self._placeholder = _bound(host, 0)
        """Keeps the port while nobody listens on it."""
        self._address: tuple[str, int] = self._placeholder.getsockname()
        self._listener: socket.socket | None = None
        self._hung: list[socket.socket] = []
        self._links: set[_Link] = set()
        self._passes = {way: asyncio.Event() for way in BOTH_WAYS}
        self._delay_s = 0.0
        self._trap: _Trap | None = None
        self.connected = 0
        self.url = self._url()

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._links)

    def cut(self) -> int:
        """Reset every connection; new ones are welcome. How many there were."""
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    def cut_reply(self, *, to: bytes = b"", after: int = 1) -> asyncio.Event:
        """Reset the next connection that sends a request with these bytes, within its reply.

        `after` so many bytes of it: with 0 the server did what it was asked and nobody learns of
        it. The event says that it has happened. One at a time.
        """
        self._trap = _Trap(to, after)
        return self._trap.sprung

    def black_hole(self, *ways: Way) -> None:
        """Pass nothing more, in one direction or (by default) both, on old and new connections."""
        for way in ways or BOTH_WAYS:
            self._passes[way].clear()

    def delay(self, seconds: float) -> None:
        """What passes, passes so much later."""
        self._delay_s = seconds

    def refuse(self) -> None:
        """New connections are refused at once, as by a server that is down."""
        self._stop_listening()

    def hang_new(self) -> None:
        """New connections are neither made nor refused, as by a host that vanished."""
        self._stop_listening()
        full = _bound(*self._address)
        full.listen(0)
        self._hung.append(full)
        for _ in range(2):
            # Nobody accepts these: with the backlog full, the kernel drops what else knocks.
            filler = socket.socket()
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(self._address)
            self._hung.append(filler)

    def heal(self) -> None:
        """No trouble any more."""
        for way in BOTH_WAYS:
            self._passes[way].set()
        self._delay_s = 0.0
        self._trap = None
        if self._listener is None:
            self._stop_listening()
            self._listen()

    def open(self, group: asyncio.TaskGroup) -> None:
        """Begin; connections live in `group`."""
        self._group = group
        self.heal()

    def close(self) -> None:
        """End everything."""
        self._stop_listening()
        self._placeholder.close()
        self.cut()

    def _url(self) -> str:
        host, port = self._address
        parts = self._target
        credentials = parts.netloc.rpartition("@")[0]
        place = f"{credentials}@{host}:{port}" if credentials else f"{host}:{port}"
        if parts.scheme == "unix":
            return urlunsplit(("redis", place, "/", parts.query, ""))
        return urlunsplit((parts.scheme, place, parts.path, parts.query, ""))

    def _listen(self) -> None:
        self._listener = _bound(*self._address)
        self._listener.listen(128)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _stop_listening(self) -> None:
        """At once: who connects in this very loop pass is refused."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        while self._hung:
            self._hung.pop().close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            client, _ = listener.accept()
            self.connected += 1
            link = _Link(self, client)
            self._links.add(link)
            link.task = self._group.create_task(self._serve(link))

    async def _serve(self, link: _Link) -> None:
        try:
            with suppress(OSError):
                await link.run(await self._reach_server())
        finally:
            self._links.discard(link)
            link.close()

    async def _reach_server(self) -> socket.socket:
        parts = self._target
        is_unix = parts.scheme == "unix"
        server = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
        server.setblocking(False)
        address = parts.path if is_unix else (parts.hostname, parts.port or 6379)
        try:
            await asyncio.get_running_loop().sock_connect(server, address)
        except BaseException:
            server.close()
            raise
        return server

    async def _let_through(self, link: _Link, way: Way, chunk: bytes) -> bytes:
        """What of it is to pass, when it may; the link is cut once that has gone."""
        trap = self._trap
        if trap and way is Way.TO_SERVER and trap.link is None and trap.to in chunk:
            trap.link = link
        await self._passes[way].wait()
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        if trap and way is Way.TO_CLIENT and trap.link is link:
            self._trap = None
            link.ends_after_this = trap.sprung
            return chunk[: trap.after]
        return chunk


class _Link:
    """A client's connection and the one to the server that goes with it."""

    task: asyncio.Task[None]
    ends_after_this: asyncio.Event | None = None

    def __init__(self, proxy: RedisProxy, client: socket.socket) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._proxy = proxy
        self._client = client
        self._server: socket.socket | None = None

    async def run(self, server: socket.socket) -> None:
        """Pass bytes until either side ends."""
        self._server = server
        async with asyncio.TaskGroup() as group:
            ways = [
                group.create_task(self._pass(self._client, server, Way.TO_SERVER)),
                group.create_task(self._pass(server, self._client, Way.TO_CLIENT)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()

    def cut(self) -> None:
        """Reset it."""
        self._reset()
        self.task.cancel()

    def close(self) -> None:
        """Both ends, as they are."""
        self._client.close()
        if self._server is not None:
            self._server.close()

    async def _pass(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while chunk := await loop.sock_recv(source, _CHUNK):
                passing = await self._proxy._let_through(self, way, chunk)
                await loop.sock_sendall(sink, passing)
                if self.ends_after_this:
                    self._reset()
                    self.ends_after_this.set()
                    return

    def _reset(self) -> None:
        with suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setblocking(False)
    bound.bind((host, port))
    return bound


@asynccontextmanager
async def redis_proxy(target: str, *, host: str = "127.0.0.1") -> AsyncIterator[RedisProxy]:
    """A proxy before the server of a `redis://`, `rediss://` or `unix://` URL, until the end."""
    proxy = RedisProxy(target, host)
    async with asyncio.TaskGroup() as group:
        proxy.open(group)
        try:
            yield proxy
        finally:
            proxy.close()
