"""What the routes work with, put together once per process."""

from __future__ import annotations

from dataclasses import dataclass

from api.completions import Completions
from api.drain import Drain
from api.errands import Errands
from api.key_check import KeyCheck
from api.sessions import Sessions
from api.submit import TurnOpener
from infra.runtime.clock import Clock
from infra.runtime.settings import Settings
from infra.store.workers import WorkerRegistry


@dataclass(frozen=True)
class ApiDeps:
    """The parts of one replica."""

    settings: Settings
    secret: bytes
    clock: Clock
    turns: TurnOpener
    completions: Completions
    sessions: Sessions
    key_check: KeyCheck
    workers: WorkerRegistry
    drain: Drain
    errands: Errands
