"""Opens the store for one process: all its parts share one connection pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from redis.asyncio import Redis

from infra.runtime.contents import Contents, contents_of
from infra.runtime.settings import Settings, SettingsRefused
from infra.store.access.key_verdicts import KeyVerdicts
from infra.store.access.rates import Rates
from infra.store.access.usage import UsageStore
from infra.store.bounds import ENDED_TTL_S
from infra.store.conversations.chains import ChainStore
from infra.store.conversations.conversations import ConversationStore
from infra.store.conversations.leases import LeaseStore
from infra.store.conversations.transcripts import MAX_BYTES, TranscriptStore
from infra.store.files.files import FileRecords
from infra.store.files.made import MadeRecords
from infra.store.files.uploads import UploadRecords
from infra.store.keys import Keys
from infra.store.mcp_logins import McpLogins
from infra.store.mcp_seen import McpSeen
from infra.store.overview import OverviewReader
from infra.store.placement.queue import PlacementQueue, PlacementWorker, SideClaims
from infra.store.placement.start_slots import StartSlots
from infra.store.placement.waiting_room import WaitingRoom
from infra.store.placement.workers import WorkerRegistry
from infra.store.profiles import ProfileStore
from infra.store.server.connection import CONNECT_TIMEOUT_S, connect, translate
from infra.store.server.faults import FAULTS
from infra.store.server.fitness import check
from infra.store.server.tls import TlsFiles
from infra.store.turns.live import LivePublisher, LiveSubscriber
from infra.store.turns.log import TurnLog
from infra.store.turns.readers import TurnReaders
from infra.store.turns.turns import TurnStore
from infra.wire.ids import ReplicaId, TurnId, WorkerId

RUNNING_SHARE = 1.25
"""The share of its limit that a tenant's running turns may use in addition. So a tenant at its
limit gets no new turns, but does not lose running ones."""


@dataclass(frozen=True)
class Store:
    """All parts of the store. Close it with `aclose()`."""

    redis: Redis
    keys: Keys
    turns: TurnStore
    log: TurnLog
    conversations: ConversationStore
    transcripts: TranscriptStore
    chains: ChainStore
    leases: LeaseStore
    workers: WorkerRegistry
    overview: OverviewReader
    queue: PlacementQueue
    room: WaitingRoom
    starts: StartSlots
    key_verdicts: KeyVerdicts
    profiles: ProfileStore
    mcp_logins: McpLogins
    mcp_seen: McpSeen
    usage: UsageStore
    rates: Rates
    readers: TurnReaders
    files: FileRecords
    made: MadeRecords
    uploads: UploadRecords
    contents: Contents | None = None
    """Seals prompts and answers, if the deployment has a content secret."""
    may_evict: bool = False
    """Whether `check` accepts a Redis that evicts keys."""

    def publisher(self) -> LivePublisher:
        """A worker's sending side of the fast path."""
        return LivePublisher(self.redis, self.keys, contents=self.contents)

    def subscriber(self, replica: ReplicaId) -> LiveSubscriber:
        """An API replica's receiving side of the fast path."""
        return LiveSubscriber(self.redis, self.keys, replica, contents=self.contents)

    def placement(
        self,
        worker: WorkerId,
        *,
        claim: Callable[[TurnId], Awaitable[None]],
        has_room: Callable[[], bool],
        take: Callable[[TurnId], Awaitable[None]] | None = None,
        side: SideClaims | None = None,
    ) -> PlacementWorker:
        """A worker's queues."""
        return PlacementWorker(
            self.redis, self.keys, worker, claim=claim, has_room=has_room, take=take, side=side
        )

    async def ping(self) -> None:
        """Raises `StoreUnavailable` if Redis does not answer."""
        with translate():
            await self.redis.ping()

    async def check(self) -> None:
        """Check whether this Redis can be trusted with leases (`infra.store.server.fitness`).

        Raises `StoreUnavailable` if it does not answer, `StoreUnfit` if it must not be used.
        """
        await check(self.redis, self.keys, may_evict=self.may_evict)

    async def aclose(self) -> None:
        """Close the pool. It is not an error if Redis is unavailable."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self.redis.aclose()
        except FAULTS:
            return


def open_store(settings: Settings, *, name: str, timeout_s: float | None = None) -> Store:
    """The store at `settings.redis_url`. Connects on first use.

    CLIENT LIST shows `name`. Raises `SettingsRefused` if the URL is missing or invalid.
    """
    store = store_on(
        _client(settings, name=name, timeout_s=timeout_s or settings.redis_timeout_s),
        Keys(settings.redis_prefix),
        ended_ttl_s=settings.turn_ttl_s,
        transcript_max_bytes=settings.transcript_max_bytes,
        tenant_bytes_max=settings.tenant_bytes_max,
        contents=_contents(settings),
    )
    return replace(store, may_evict=settings.redis_allow_eviction)


def _client(settings: Settings, *, name: str, timeout_s: float) -> Redis:
    if settings.redis_url is None:
        raise SettingsRefused("AGCLUSTER_REDIS_URL is not set")
    files = TlsFiles(settings.redis_ca_file, settings.redis_cert_file, settings.redis_key_file)
    try:
        return connect(settings.redis_url, timeout_s=timeout_s, name=name, tls=files)
    except ValueError as error:
        raise SettingsRefused(f"AGCLUSTER_REDIS_URL: {error}") from error


def _contents(settings: Settings) -> Contents | None:
    secret = settings.content_secret
    return None if secret is None else contents_of(secret.get_secret_value())


def store_on(
    redis: Redis,
    keys: Keys,
    *,
    ended_ttl_s: float = ENDED_TTL_S,
    transcript_max_bytes: int = MAX_BYTES,
    tenant_bytes_max: int = 0,
    contents: Contents | None = None,
) -> Store:
    """The store on an existing client."""
    running_max = round(tenant_bytes_max * RUNNING_SHARE)
    workers = WorkerRegistry(redis, keys)
    return Store(
        redis=redis,
        keys=keys,
        turns=TurnStore(redis, keys, ended_ttl_s=ended_ttl_s, contents=contents),
        log=TurnLog(redis, keys, tenant_bytes_max=running_max, contents=contents),
        conversations=ConversationStore(redis, keys, ended_ttl_s=ended_ttl_s),
        transcripts=TranscriptStore(
            redis,
            keys,
            max_bytes=transcript_max_bytes,
            tenant_bytes_max=running_max,
            contents=contents,
        ),
        chains=ChainStore(redis, keys, contents=contents),
        leases=LeaseStore(redis, keys),
        workers=workers,
        overview=OverviewReader(redis, keys, workers),
        queue=PlacementQueue(redis, keys),
        room=WaitingRoom(redis, keys),
        starts=StartSlots(redis, keys),
        key_verdicts=KeyVerdicts(redis, keys),
        profiles=ProfileStore(redis, keys),
        mcp_logins=McpLogins(redis, keys),
        mcp_seen=McpSeen(redis, keys),
        rates=Rates(redis, keys),
        readers=TurnReaders(redis, keys, ended_ttl_s=ended_ttl_s, contents=contents),
        usage=UsageStore(redis, keys),
        files=FileRecords(redis, keys, contents=contents),
        made=MadeRecords(redis, keys, contents=contents),
        uploads=UploadRecords(redis, keys, contents=contents),
        contents=contents,
    )
