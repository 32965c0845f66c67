"""Redis behind Sentinels: finds its current primary, and makes connections follow it.

A connection asks for the primary before it connects, verifies that it has reached a primary, and is
closed when that primary has become a replica or another one is known. Otherwise an old primary that
was only frozen would keep accepting writes, which are lost when it learns of the failover. The
pools of one client share what is known; `infra.store.server.channel.follow_primary` hears of a
failover immediately.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit
from weakref import WeakSet

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ReadOnlyError, RedisError

SCHEMES = ("redis+sentinel", "rediss+sentinel")
PORT = 26379
SERVICE = "mymaster"
ASK_TIMEOUT_S = 1.0
"""Seconds for one Sentinel to answer; then the next one is asked."""
FRESH_S = 0.5
"""Seconds that an answer is valid, unless a connection fails."""

Address = tuple[str, int]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SentinelPlace:
    """The contents of a Sentinel URL."""

    sentinels: Sequence[Address]
    service: str
    is_tls: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    """For connections to Redis: database, credentials, and options of the query."""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict)
    """For connections to the Sentinels: their own credentials."""


def parse_sentinel_url(url: str) -> SentinelPlace:
    """`redis+sentinel://user:password@host1:26379,host2,host3/service/db?…`.

    Service and database may be left out (mymaster, 0), ports too. Credentials are percent-decoded;
    those of the Sentinels are `sentinel_username` and `sentinel_password` of the query. With
    `rediss+sentinel` both are spoken to over TLS. Raises `ValueError`; its text holds no
    credentials.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    own = {
        name: query.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in query
    }
    service, _, database = parts.path.strip("/").partition("/")
    if database and not database.isdigit():
        raise ValueError("a Sentinel URL ends in /service/db, where db is a number")
    options = dict(parse_url(f"redis://sentinel/{database}?{urlencode(query)}"))
    options.pop("host")
    username, _, password = credentials.partition(":")
    named = {"username": unquote(username), "password": unquote(password)}
    return SentinelPlace(
        sentinels=[_address(host) for host in hosts.split(",")],
        service=unquote(service) or SERVICE,
        is_tls=parts.scheme == "rediss+sentinel",
        options=options | {name: value for name, value in named.items() if value},
        sentinel_options=own,
    )


def _address(host: str) -> Address:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("a Sentinel URL names its Sentinels as host1:26379,host2,host3")
    return parts.hostname, parts.port or PORT


class Primary:
    """The address of one service's primary, as far as this process knows."""

    known: Address | None
    """The newest answer."""

    def __init__(
        self, sentinels: Sequence[Address], service: str, sentinel_options: Mapping[str, Any]
    ) -> None:
        """`sentinel_options` are connection arguments, including the connection class."""
        self.known = None
        self._sentinels = list(sentinels)
        self._service = service
        self._options = dict(sentinel_options)
        self._asking = asyncio.Lock()
        self._found_s = self._failed_s = -FRESH_S
        self._failure = ""
        self._connections: WeakSet[PrimaryConnection] = WeakSet()

    @property
    def sentinels(self) -> Sequence[Address]:
        """The Sentinels; the one that answered last comes first."""
        return tuple(self._sentinels)

    def client_of(self, sentinel: Address) -> Redis:
        """A client of one Sentinel; close it with `aclose()`."""
        host, port = sentinel
        return Redis.from_pool(ConnectionPool(**self._options, host=host, port=port))

    def take_in(self, connection: PrimaryConnection) -> None:
        """Register a connection, to be closed when another primary is known."""
        self._connections.add(connection)

    def announced(self, message: bytes) -> None:
        """A Sentinel reported a failover: service, old address, new address."""
        match message.decode(errors="replace").split():
            case [self._service, _, _, host, port] if port.isdigit():
                self._is_at((host, int(port)))

    async def find(self) -> Address:
        """Its address. Asks the Sentinels unless that was just done.

        Raises `MasterNotFoundError` while none of them knows a primary that answers.
        """
        came_s = time.monotonic()
        async with self._asking:
            if self.known is not None and time.monotonic() - self._found_s < FRESH_S:
                return self.known
            if self._failed_s >= came_s:
                raise MasterNotFoundError(self._failure)  # Asked while we waited.
            try:
                found = await self._ask_all()
            except MasterNotFoundError as error:
                self._failed_s, self._failure = time.monotonic(), str(error)
                raise
            self._is_at(found)
            return found

    def _is_at(self, found: Address) -> None:
        self._found_s = time.monotonic()
        if found == self.known:
            return
        if self.known is not None:
            log.warning("the primary of %s is now %s:%d", self._service, *found)
        self.known = found
        for connection in self._connections:
            connection.break_off()

    def doubt(self) -> None:
        """It could not be reached, or is no longer the primary: ask again."""
        self._found_s = -FRESH_S

    async def _ask_all(self) -> Address:
        """Ask them one after the other, first the one that answered last."""
        faults = []
        for sentinel in list(self._sentinels):
            try:
                found = await self._ask(sentinel)
            except (RedisError, OSError, TimeoutError) as error:
                faults.append(f"{sentinel[0]}:{sentinel[1]}: {error}")
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return found
        told = "; ".join(faults)
        raise MasterNotFoundError(f"no Sentinel knows a primary of {self._service} ({told})")

    async def _ask(self, sentinel: Address) -> Address:
        async with asyncio.timeout(ASK_TIMEOUT_S), self.client_of(sentinel) as client:
            state = await client.sentinel_master(self._service)  # type: ignore[no-untyped-call]
        if not state["is_master"] or state["is_sdown"] or state["is_odown"]:
            raise MasterNotFoundError("the primary does not answer")
        return state["ip"], state["port"]


class PrimaryConnection(Connection):
    """A connection to the primary at the time of connecting."""

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        self._primary = primary
        super().__init__(**options)
        primary.take_in(self)

    def doubt(self) -> None:
        """Its server has shown that it is not the primary: the next connection asks again."""
        self._primary.doubt()

    def break_off(self) -> None:
        """Close it at once, even if it waits for an answer, unless it is connected to the
        primary."""
        if self._writer is not None and (self.host, self.port) != self._primary.known:
            self._writer.transport.abort()

    async def connect(self) -> None:
        """Connect, unless it is already connected to the primary."""
        if self.is_connected and (self.host, self.port) != self._primary.known:
            await self.disconnect(nowait=True)
        await super().connect()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        self.host, self.port = await self._primary.find()
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError):
            self.doubt()
            raise

    async def on_connect(self) -> None:
        """Authenticate, and check that the server knows that it is the primary."""
        await super().on_connect()
        await self.send_command("ROLE", check_health=False)
        try:
            [role, *_] = await self.read_response()
        except NoPermissionError:
            return  # These users may not ask; a write to a replica is refused anyway.
        if role != b"master":
            self.doubt()
            raise RedisConnectionError(f"{self.host}:{self.port} is not the primary")

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """The reply. If a replica refuses a write, the connection is closed, so that the next one
        finds the primary."""
        try:
            return await super().read_response(*arguments, **options)
        except ReadOnlyError:
            self.doubt()
            await self.disconnect(nowait=True)
            raise RedisConnectionError("the primary has become a replica") from None
