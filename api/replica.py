"""One API process put together: its parts, and the loops that run while it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

import httpx

from api.access.admission import Admission
from api.access.agents import AgentCatalog
from api.access.answer_quota import AnswerQuota
from api.access.catalog import ModelCatalog
from api.access.key_check import TIMEOUT_S, KeyCheck
from api.conversations.sessions import Sessions
from api.deps import ApiDeps
from api.files.intake import FileIntake
from api.files.links import FileLinks
from api.files.made_files import MadeFiles
from api.files.parted_uploads import PartedUploads
from api.files.stored_files import StoredFiles
from api.http.auth import KEY_MIN_CHARS
from api.http.bodies import LargeBodies
from api.http.drain import Drain
from api.registry.reading import RegistryReader
from api.turns.deferred import DeferredCalls
from api.turns.following.relay_opener import RelayOpener
from api.turns.lookup import TurnLookup
from api.turns.temporary import TemporaryNames
from api.turns.turn_opener import TurnOpener
from infra.files.open import open_file_store
from infra.files.store import FileStore
from infra.profiles.folder import ProfileFolder
from infra.profiles.installed import InstalledFolder
from infra.profiles.shipped import shipped_agents
from infra.registry.catalogue import Catalogue
from infra.releases.keys import TrustedPublishers
from infra.releases.policy import policy_of
from infra.runtime.clock import Clock
from infra.runtime.identity import new_replica_id
from infra.runtime.sealing import secrets_in
from infra.runtime.settings import Settings, SettingsRefused
from infra.store.files.files import FileRecords
from infra.store.open import Store
from infra.store.profiles import ProfileStore
from infra.store.turns.live import LiveSubscriber
from infra.wire.errors import AgClusterError
from infra.wire.ids import ReplicaId

log = logging.getLogger(__name__)

DEFERRED_S = 2.0
"""Seconds at shutdown for deferred calls that have not been made yet."""


@asynccontextmanager
async def running_replica(
    settings: Settings, *, store: Store, upstream: httpx.AsyncClient, clock: Clock
) -> AsyncIterator[ApiDeps]:
    """The parts of a replica, with their loops running until the block ends.

    A loop that dies ends the block, because a replica without its subscription would only half
    work. Raises `SettingsRefused` without a secret.
    """
    if settings.secret is None:
        raise SettingsRefused("AGCLUSTER_SECRET is not set")
    if settings.a2a and find_spec("a2a") is None:
        raise SettingsRefused("AGCLUSTER_A2A needs an extra: pip install 'agcluster[a2a]'")
    secret = settings.secret.get_secret_value().encode()
    identity = secrets_in(secret)[0]
    if settings.identity_secret is not None:
        identity = settings.identity_secret.get_secret_value().encode()
    replica = new_replica_id(settings.host_name)
    live = store.subscriber(replica)
    files = open_file_store(settings, data_dir=settings.data_dir)
    deps = _parts(
        settings,
        store=store,
        upstream=upstream,
        clock=clock,
        secret=secret,
        identity=identity,
        replica=replica,
        live=live,
        files=files,
    )
    deferred = deps.deferred
    async with asyncio.TaskGroup() as group:
        loops = [
            group.create_task(live.run()),
            group.create_task(deferred.run()),
            group.create_task(
                _look_at_files(
                    files, store.files, public_url=settings.files_url or settings.public_url
                )
            ),
            group.create_task(deps.agents.run()),
        ]
        try:
            yield deps
            await _settle(deferred)
        finally:
            for loop in loops:
                loop.cancel()


def _parts(
    settings: Settings,
    *,
    store: Store,
    upstream: httpx.AsyncClient,
    clock: Clock,
    secret: bytes,
    identity: bytes,
    replica: ReplicaId,
    live: LiveSubscriber,
    files: FileStore,
) -> ApiDeps:
    drain = Drain()
    deferred = DeferredCalls(clock)
    answers = AnswerQuota(per_tenant_max=settings.tenant_streams_max)
    large = LargeBodies()
    relays = RelayOpener(
        limits=settings,
        agents=settings,
        replica=replica,
        turns=store.turns,
        turn_log=store.log,
        live=live,
        drain=drain,
        clock=clock,
    )
    lookup = TurnLookup(turns=store.turns, turn_log=store.log, relays=relays, answers=answers)
    names = TemporaryNames(
        settings, secret=identity, chains=store.chains, retention_s=settings.retention_s
    )
    catalog = ModelCatalog(settings, upstream, clock)
    intake = FileIntake(settings, records=store.files, files=files)
    return ApiDeps(
        settings=settings,
        clock=clock,
        turns=TurnOpener(
            settings,
            secret=secret,
            turns=store.turns,
            chains=store.chains,
            names=names,
            queue=store.queue,
            relays=relays,
            answers=answers,
            readers=store.readers,
            deferred=deferred,
            large=large,
            clock=clock,
        ),
        lookup=lookup,
        sessions=Sessions(
            settings,
            names=names,
            conversations=store.conversations,
            turns=store.turns,
            lookup=lookup,
        ),
        files=StoredFiles(records=store.files, intake=intake, clock=clock),
        uploads=PartedUploads(
            uploads=store.uploads, records=store.files, intake=intake, clock=clock
        ),
        made=MadeFiles(records=store.files, made=store.made, clock=clock),
        links=FileLinks.of(settings),
        admission=_admission(
            settings, store=store, upstream=upstream, clock=clock, secret=identity
        ),
        workers=store.workers,
        drain=drain,
        deferred=deferred,
        large=large,
        catalog=catalog,
        registry=RegistryReader(Catalogue(files, clock)),
        agents=_agents(settings, models=catalog, profiles=store.profiles, clock=clock),
    )


def _agents(
    settings: Settings, *, models: ModelCatalog, profiles: ProfileStore, clock: Clock
) -> AgentCatalog:
    folder = ProfileFolder(
        settings.agents_dir,
        shipped=shipped_agents() if settings.shipped_agents else None,
        installed=InstalledFolder(
            settings.agents_dir,
            publishers=TrustedPublishers(settings.agent_publishers),
            policy=policy_of(settings, agents=settings, models=settings),
        ),
    )
    return AgentCatalog(
        folder,
        models=models,
        profiles=profiles,
        default_model=settings.models[0],
        keep_s=settings.retention_s * 9 / 8,
        delegation_depth=settings.delegation_depth,
        clock=clock,
    )


async def _look_at_files(files: FileStore, records: FileRecords, *, public_url: str | None) -> None:
    """Say in the log what will not work with files. Nothing else waits for them."""
    try:
        told = files.warning(await records.see_store(await files.identity()))
    except AgClusterError as error:
        told = f"the file store ({files.place}) does not work: {error}"
    if told is not None:
        log.warning("%s", told)
    if public_url is None:
        log.warning(
            "answers have no links to the files that agents make: set AGCLUSTER_PUBLIC_URL to "
            "where browsers reach this API"
        )


def _admission(
    settings: Settings, *, store: Store, upstream: httpx.AsyncClient, clock: Clock, secret: bytes
) -> Admission:
    key_check = KeyCheck(
        upstream,
        store.key_verdicts,
        clock,
        base_url=settings.anthropic_base_url,
        accepted_ttl_s=settings.key_check_ttl_s,
        enabled=settings.key_check,
    )
    return Admission(
        settings,
        secret=secret,
        key_check=key_check,
        rates=store.rates,
        clock=clock,
        # Nobody pays for a demo's keys, so whatever a client wants to be given will do.
        key_min_chars=1 if settings.demo else KEY_MIN_CHARS,
    )


async def _settle(deferred: DeferredCalls) -> None:
    deferred.hurry()
    try:
        async with asyncio.timeout(DEFERRED_S):
            await deferred.settled()
    except TimeoutError:
        log.warning("some deferred calls were not made before the end")


def upstream_client() -> httpx.AsyncClient:
    """The client for key checks: few connections, no redirects (a key must not follow one)."""
    return httpx.AsyncClient(
        timeout=TIMEOUT_S,
        follow_redirects=False,
        limits=httpx.Limits(max_connections=20, max_keepalive_connections=5),
    )
