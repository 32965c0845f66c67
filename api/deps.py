"""The parts that routes use, put together once per process."""

from __future__ import annotations

from dataclasses import dataclass

from api.access.admission import Admission
from api.access.agents import AgentCatalog
from api.access.catalog import ModelCatalog
from api.conversations.sessions import Sessions
from api.files.links import FileLinks
from api.files.made_files import MadeFiles
from api.files.parted_uploads import PartedUploads
from api.files.stored_files import StoredFiles
from api.http.bodies import LargeBodies
from api.http.drain import Drain
from api.registry.reading import RegistryReader
from api.turns.deferred import DeferredCalls
from api.turns.lookup import TurnLookup
from api.turns.turn_opener import TurnOpener
from infra.runtime.clock import Clock
from infra.runtime.settings import Settings
from infra.store.placement.workers import WorkerRegistry


@dataclass(frozen=True)
class ApiDeps:
    """The parts of one replica."""

    settings: Settings
    clock: Clock
    turns: TurnOpener
    lookup: TurnLookup
    sessions: Sessions
    files: StoredFiles
    uploads: PartedUploads
    made: MadeFiles
    links: FileLinks
    admission: Admission
    workers: WorkerRegistry
    drain: Drain
    deferred: DeferredCalls
    large: LargeBodies
    catalog: ModelCatalog
    agents: AgentCatalog
    registry: RegistryReader
