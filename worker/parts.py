"""What the worker's parts are given: identity, dependencies, and timings.

There is one bundle per layer of the worker, and each part takes the smallest one that it needs: the
run of a turn cannot reach containers, and what runs on this host does not know the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from infra.files.store import FileStore
from infra.runtime.clock import Clock
from infra.runtime.settings.agents import AgentDefaults, IsolationSettings
from infra.runtime.settings.chats import SideSettings
from infra.runtime.settings.cluster import ClusterSettings
from infra.runtime.settings.files import FileSettings
from infra.runtime.settings.limits import LimitSettings, ModelCallSettings
from infra.runtime.settings.models import ModelSettings
from infra.store.access.usage import UsageStore
from infra.store.conversations.conversations import ConversationStore
from infra.store.conversations.transcripts import TranscriptStore
from infra.store.files.files import FileRecords
from infra.store.files.made import MadeRecords
from infra.store.mcp_logins import McpLogins
from infra.store.mcp_seen import McpSeen
from infra.store.placement.queue import PlacementQueue
from infra.store.placement.waiting_room import WaitingRoom
from infra.store.placement.workers import WorkerRegistry
from infra.store.profiles import ProfileStore
from infra.store.turns.live import LivePublisher
from infra.store.turns.log import TurnLog
from infra.store.turns.turns import TurnStore
from infra.wire.ids import HostId, WorkerId
from worker.gateway_client.registrar import GatewayRegistrar
from worker.hosts.engine import Engine
from worker.hosts.folders.folders import Folders
from worker.hosts.folders.workspace import WorkspaceGauge
from worker.hosts.host import ContainerHost
from worker.hosts.pool.pool import WarmPool
from worker.hosts.start_slots import Starts
from worker.lines import HeldLines
from worker.log_flusher import LogFlusher
from worker.meter_rounds import MeterRounds
from worker.ownership import Ownership


@dataclass(frozen=True)
class Timings:
    """How long the worker waits for what, in seconds. The defaults are the design's; tests use
    shorter ones."""

    log_every_s: float = 0.25
    meter_every_s: float = 2.0
    """Between two readings of a running turn's usage. A gateway that is killed loses this much."""
    connect_pause_s: float = 0.01
    """Between two checks for the socket of a starting agent, which listens after less than 1 s."""
    connect_pause_max_s: float = 0.03
    greeting_s: float = 5.0
    spare_greeting_s: float = 2.0
    """A spare that does not answer its conversation by then is replaced by a start."""
    relink_s: float = 10.0
    """An agent whose link broke is given up if it cannot be reached for this long."""
    silence_s: float = 10.0
    """A silent agent is pinged after this long, and connected again after twice as long."""
    sweep_at_least_s: float = 2.0
    sweep_at_most_s: float = 5.0
    unclaimed_after_s: float = 2.0
    reconcile_every_s: float = 30.0
    orphan_grace_s: float = 60.0
    host_patience_s: float = 18.0
    """After a worker went silent, its host has this long to bring up another one. Then its turns
    are ended, which is within 30 s of a host's loss."""
    successor_patience_s: float = 60.0
    """The same after a worker that left in order, because a deploy takes time."""
    name_patience_s: float = 20.0
    """Registered workers of another machine under this host's name may be dead for this long,
    because a heartbeat is valid for 15 s."""
    home_patience_s: float = 3.0
    """A turn younger than this is sent to the host that has its conversation's files."""
    give_way_after_s: float = 1.0
    """If there is no room, a warm conversation gives its place to another tenant's after its turn,
    if that one has waited for this long. If there is room, placing a turn takes less time."""
    hand_over_s: float = 5.0
    """Handing one conversation over may take this long; then its lease expires instead."""
    stop_grace_s: float = 2.0
    stop_max_s: float = 60.0
    """A host that has not confirmed by then that a container is gone has failed to stop it."""
    transcript_grace_s: float = 5.0
    """Before a container is stopped, the store has this long to accept its last entries."""
    inventory_every_s: float = 20.0
    """Between two inventories of the host's containers for people; one is valid for 60 s."""
    keep_starts_every_s: float = 5.0
    """How often the worker reports which agents are still starting. A start that is not reported
    for six times as long no longer counts."""
    engine_cool_down_s: float = 1.0
    """A failed engine is tried again after this long. It is short, because the conversation may
    have been the cause. The time doubles with each failure..."""
    engine_cool_down_max_s: float = 60.0
    """...and so on up to this."""
    touch_every_s: float = 10.0
    """How often a used folder is marked as such. Unused ones are kept for a minute at least."""
    workspace_every_s: float = 10.0
    """Between two measurements of a workspace in use."""
    workspace_glance_s: float = 0.25
    """How often the worker checks whether the disk fills up, which is cheaper than measuring."""


@dataclass(frozen=True, kw_only=True)
class CommonParts:
    """What every layer needs."""

    clock: Clock
    timings: Timings
    agents: AgentDefaults


@dataclass(frozen=True, kw_only=True)
class TurnParts(CommonParts):
    """For the run of a turn: where it is metered, stored and published."""

    models: ModelSettings
    budgets: ModelCallSettings
    gateway: GatewayRegistrar
    turns: TurnStore
    logs: LogFlusher
    usage: UsageStore
    meters: MeterRounds
    live: LivePublisher
    mcp_seen: McpSeen


@dataclass(frozen=True, kw_only=True)
class LaneParts(TurnParts):
    """For lanes, which run turns under leases of their own."""

    ownership: Ownership
    files: FileStore | None = None
    """What callers upload; None in a test without any."""
    queue: PlacementQueue
    cluster: ClusterSettings


@dataclass(frozen=True, kw_only=True)
class SideParts(LaneParts):
    """For the side lane."""

    side: SideSettings


@dataclass(frozen=True, kw_only=True)
class HostParts(CommonParts):
    """What isolates agents on this host."""

    host_id: HostId
    isolation: IsolationSettings
    host: ContainerHost
    engine: Engine
    """Starts containers on `host`."""
    starts: Starts
    """Decides when one may be started."""
    pool: WarmPool
    folders: Folders
    gauge: WorkspaceGauge


@dataclass(frozen=True, kw_only=True)
class FilesKept:
    """Where what agents make is kept, and how much of it."""

    settings: FileSettings
    files: FileStore
    records: FileRecords
    made: MadeRecords


@dataclass(frozen=True, kw_only=True)
class ConversationParts(LaneParts, HostParts):
    """For a conversation with its agent."""

    worker: WorkerId
    conversations: ConversationStore
    transcripts: TranscriptStore
    room: WaitingRoom
    profiles: ProfileStore
    mcp_logins: McpLogins
    log: TurnLog
    limits: LimitSettings
    kept_files: FilesKept | None = None
    """For what agents make; None in a test that keeps nothing."""
    held_lines: HeldLines = field(default_factory=HeldLines)

    @property
    def agent_alone_s(self) -> float:
        """Seconds that an agent keeps running without contact to a worker; at least the idle
        timeout."""
        return max(self.agents.agent_alone_s, self.agents.idle_timeout_s)


@dataclass(frozen=True, kw_only=True)
class WorkerParts(ConversationParts, SideParts):
    """For the parts that handle all of a worker's conversations: placement and sweeps."""

    registry: WorkerRegistry
