"""What the worker's modules are given: who we are, what we talk to, how patient we are.

A bundle for each floor of the worker, and a part takes the lowest one that has what it needs: the
run of a turn cannot reach containers, and what runs on this host knows no store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from infra.runtime.clock import Clock
from infra.runtime.settings.agents import AgentDefaults, IsolationSettings
from infra.runtime.settings.chats import SideSettings
from infra.runtime.settings.cluster import ClusterSettings
from infra.runtime.settings.limits import LimitSettings, ModelCallSettings
from infra.runtime.settings.models import ModelSettings
from infra.store.access.usage import UsageStore
from infra.store.conversations.conversations import ConversationStore
from infra.store.conversations.transcripts import TranscriptStore
from infra.store.placement.queue import PlacementQueue
from infra.store.placement.waiting_room import WaitingRoom
from infra.store.placement.workers import WorkerRegistry
from infra.store.turns.live import LivePublisher
from infra.store.turns.log import TurnLog
from infra.store.turns.turns import TurnStore
from infra.wire.ids import HostId, WorkerId
from worker.gateway_client.registrar import GatewayRegistrar
from worker.hosts.engine import Engine
from worker.hosts.folders.folders import Folders
from worker.hosts.folders.workspace import WorkspaceGauge
from worker.hosts.host import ContainerHost
from worker.hosts.start_slots import Starts
from worker.lines import HeldLines
from worker.ownership import Ownership


@dataclass(frozen=True)
class Timings:
    """How long the worker waits for what. The defaults are the design's; tests use shorter ones."""

    log_every_s: float = 0.25
    meter_every_s: float = 2.0
    """Between two looks at what a running turn has used. A gateway that ends loses this much."""
    connect_pause_s: float = 0.01
    """Between two looks for the socket of a starting agent: it listens after less than 1 s."""
    connect_pause_max_s: float = 0.03
    greeting_s: float = 5.0
    relink_s: float = 10.0
    """An agent whose link broke and cannot be reached for this long is given up."""
    silence_s: float = 10.0
    """A silent agent is pinged after this long, and relinked after twice as long."""
    sweep_at_least_s: float = 2.0
    sweep_at_most_s: float = 5.0
    unclaimed_after_s: float = 2.0
    reconcile_every_s: float = 30.0
    orphan_grace_s: float = 60.0
    host_patience_s: float = 18.0
    """The host of a worker that fell silent may bring up another one for so long after it was heard
    of last. Then its turns are ended: within 30 s of a host's loss."""
    successor_patience_s: float = 60.0
    """The same for one that left in order: a deploy takes its time."""
    name_patience_s: float = 20.0
    """Workers of another machine under this host's name may be of the past for so long: a heartbeat
    is good for 15 s."""
    home_patience_s: float = 3.0
    """A turn younger than this is sent to the host that has its conversation's files."""
    give_way_after_s: float = 1.0
    """Where there is no room, a warm conversation leaves its place to another tenant's after its
    turn, once that has waited for this long: where there is room, a turn is placed in less."""
    hand_over_s: float = 5.0
    """Giving one conversation away may take this long; then its lease lapses instead."""
    stop_grace_s: float = 2.0
    stop_max_s: float = 60.0
    """A host that has not said by then that a container is gone counts as one that failed to."""
    transcript_grace_s: float = 5.0
    """A container that is to stop waits this long for the store to take its last entries."""
    inventory_every_s: float = 20.0
    """Between two lists of the host's containers for people to read; a list is good for 60 s."""
    keep_starts_every_s: float = 5.0
    """How often it says which agents are still starting: one of which nothing is heard for six
    times as long takes no start from the others."""
    engine_cool_down_s: float = 1.0
    """A host whose engine fails tries it again after this long: short, for it may have been the
    conversation's doing. Then after twice as long..."""
    engine_cool_down_max_s: float = 60.0
    """...and so on up to this."""
    workspace_every_s: float = 10.0
    """Between two looks at the size of a workspace in use."""
    workspace_glance_s: float = 0.25
    """How often it is asked whether the disk fills up, which is cheaper than to measure."""


@dataclass(frozen=True, kw_only=True)
class CommonParts:
    """What every floor needs."""

    clock: Clock
    timings: Timings
    agents: AgentDefaults


@dataclass(frozen=True, kw_only=True)
class TurnParts(CommonParts):
    """For the run of a turn: where it is metered, kept and published."""

    models: ModelSettings
    budgets: ModelCallSettings
    gateway: GatewayRegistrar
    turns: TurnStore
    turn_log: TurnLog
    usage: UsageStore
    live: LivePublisher


@dataclass(frozen=True, kw_only=True)
class LaneParts(TurnParts):
    """For what runs turns under leases of its own."""

    ownership: Ownership
    queue: PlacementQueue
    cluster: ClusterSettings


@dataclass(frozen=True, kw_only=True)
class SideParts(LaneParts):
    """For the side lane."""

    side: SideSettings


@dataclass(frozen=True, kw_only=True)
class HostParts(CommonParts):
    """What agents run in on this host."""

    host_id: HostId
    isolation: IsolationSettings
    host: ContainerHost
    engine: Engine
    """Starts containers on `host`."""
    starts: Starts
    """Decides when one may be started."""
    folders: Folders
    gauge: WorkspaceGauge


@dataclass(frozen=True, kw_only=True)
class ConversationParts(LaneParts, HostParts):
    """For a conversation with its agent."""

    worker: WorkerId
    conversations: ConversationStore
    transcripts: TranscriptStore
    room: WaitingRoom
    held_lines: HeldLines = field(default_factory=HeldLines)

    @property
    def agent_alone_s(self) -> float:
        """How long an agent lives on without a word from a worker: an idle one keeps its time."""
        return max(self.agents.agent_alone_s, self.agents.idle_timeout_s)


@dataclass(frozen=True, kw_only=True)
class WorkerParts(ConversationParts, SideParts):
    """For what looks after all of a worker's conversations: placement and sweeps."""

    registry: WorkerRegistry
    limits: LimitSettings
