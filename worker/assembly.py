"""Makes the parts of a worker from its surroundings. The only place that knows all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from infra.files.store import FileStore
from infra.runtime.clock import Clock
from infra.runtime.settings import Settings
from infra.store.conversations.leases import RENEW_EVERY_S, SELF_FENCE_AFTER_S
from infra.store.open import Store
from infra.store.placement.workers import BEAT_EVERY_S
from infra.wire.ids import WorkerId
from worker.gateway_client.registrar import Gateway, GatewayRegistrar
from worker.hosts.blocking import BlockingCalls
from worker.hosts.capacity import HostMemory
from worker.hosts.engine import Engine
from worker.hosts.folders.folders import Folders
from worker.hosts.folders.workspace import WorkspaceGauge
from worker.hosts.host import ContainerHost
from worker.hosts.pool.host import PooledHost
from worker.hosts.pool.pool import PoolNeeds, WarmPool
from worker.hosts.pool.records import SpareRecords
from worker.hosts.start_slots import Starts, starts_at_once
from worker.log_flusher import LogFlusher
from worker.meter_rounds import MeterRounds
from worker.ownership import CancelListener, Ownership
from worker.parts import FilesKept, Timings, WorkerParts
from worker.turns.agent_settings import usual_settings
from worker.turns.link.spare_link import SpareLinks


@dataclass(frozen=True)
class Surroundings:
    """A worker's environment: everything that differs between a deployment and a test."""

    settings: Settings
    store: Store
    host: ContainerHost
    gateway: Gateway
    clock: Clock
    timings: Timings = field(default_factory=Timings)
    renew_every_s: float = RENEW_EVERY_S
    fence_after_s: float = SELF_FENCE_AFTER_S
    beat_every_s: float = BEAT_EVERY_S
    available_memory_mb: Callable[[], int | None] | None = None
    """None: as the settings say."""
    files: FileStore | None = None
    """What callers upload; swept by this worker."""


@dataclass(frozen=True)
class PartWishes:
    """What the parts tell the worker, and ask of it."""

    on_engine: Callable[[], None]
    """The engine is trusted now, or no longer."""
    on_room: Callable[[], None]
    """Another start may begin."""
    on_cancelled: CancelListener
    free_slots: Callable[[], int]
    running: Callable[[], int]
    """Turns that run."""
    spares_above_mb: int
    """With less available memory there are no spares."""


def assembled(
    worker: WorkerId,
    around: Surroundings,
    *,
    memory: HostMemory,
    removals: BlockingCalls,
    wishes: PartWishes,
) -> WorkerParts:
    """All parts of one worker. `removals` removes files."""
    settings, store, clock = around.settings, around.store, around.clock
    folders = Folders(settings.data_dir, later=removals.later)
    host = PooledHost(
        around.host,
        SpareRecords(settings.data_dir),
        folders,
        on_spare_ended=lambda id: pool.ended(id),
    )
    engine = _engine(worker, around, host, folders, wishes)
    starts = _starts(around, memory, wishes)
    ownership = _ownership(worker, around, wishes)
    pool = _pool(worker, around, host, engine, starts, memory, wishes)
    kept_files = None
    if around.files is not None:
        kept_files = FilesKept(
            settings=settings, files=around.files, records=store.files, made=store.made
        )
    return WorkerParts(
        worker=worker,
        host_id=around.host.host,
        timings=around.timings,
        agents=settings,
        models=settings,
        budgets=settings,
        side=settings,
        isolation=settings,
        cluster=settings,
        limits=settings,
        clock=clock,
        host=host,
        engine=engine,
        starts=starts,
        pool=pool,
        folders=folders,
        gauge=WorkspaceGauge(),
        gateway=GatewayRegistrar(around.gateway, clock, on_superseded=ownership.superseded),
        ownership=ownership,
        turns=store.turns,
        log=store.log,
        logs=LogFlusher(store.log, clock, every_s=around.timings.log_every_s),
        usage=store.usage,
        meters=MeterRounds(clock, every_s=around.timings.meter_every_s),
        conversations=store.conversations,
        transcripts=store.transcripts,
        queue=store.queue,
        room=store.room,
        profiles=store.profiles,
        mcp_logins=store.mcp_logins,
        mcp_seen=store.mcp_seen,
        files=around.files,
        kept_files=kept_files,
        registry=store.workers,
        live=store.publisher(),
    )


def _engine(
    worker: WorkerId,
    around: Surroundings,
    host: PooledHost,
    folders: Folders,
    wishes: PartWishes,
) -> Engine:
    return Engine(
        host,
        folders,
        around.settings,
        around.clock,
        worker=worker,
        has_egress=around.settings.has_egress,
        cool_down_s=around.timings.engine_cool_down_s,
        cool_down_max_s=around.timings.engine_cool_down_max_s,
        on_change=wishes.on_engine,
    )


def _starts(around: Surroundings, memory: HostMemory, wishes: PartWishes) -> Starts:
    return Starts(
        around.store.starts,
        around.clock,
        memory,
        host=around.host.host,
        most=starts_at_once(around.settings.start_slots),
        keep_every_s=around.timings.keep_starts_every_s,
        on_over=wishes.on_room,
    )


def _ownership(worker: WorkerId, around: Surroundings, wishes: PartWishes) -> Ownership:
    return Ownership(
        around.store.leases,
        around.clock,
        worker=worker,
        host=around.host.host,
        on_cancelled=wishes.on_cancelled,
        renew_every_s=around.renew_every_s,
        fence_after_s=around.fence_after_s,
    )


def _pool(
    worker: WorkerId,
    around: Surroundings,
    host: PooledHost,
    engine: Engine,
    starts: Starts,
    memory: HostMemory,
    wishes: PartWishes,
) -> WarmPool:
    settings, clock = around.settings, around.clock
    links = SpareLinks(
        clock, around.timings, worker=worker, timeout_s=settings.container_start_timeout_s
    )
    return WarmPool(
        host,
        engine,
        starts,
        memory,
        clock,
        settings,
        worker=worker,
        prepare=links.prepare,
        needs=PoolNeeds(
            settings=usual_settings(settings, settings),
            free_slots=wishes.free_slots,
            running=wishes.running,
            memory_mark_mb=wishes.spares_above_mb,
            living=around.store.workers.living,
        ),
    )
