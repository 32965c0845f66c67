"""A worker process of the model: its loops, its clock, its connection to Redis."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis

from infra.runtime.settings import Settings
from infra.runtime.settings.agents import AgentDefaults
from infra.runtime.settings.limits import LimitSettings
from infra.store.conversations.conversations import ConversationStore
from infra.store.conversations.leases import SELF_FENCE_AFTER_S, LeaseStore
from infra.store.keys import Keys
from infra.store.placement.waiting_room import Elsewhere, NoRoom, Taken, WaitingRoom
from infra.store.placement.workers import BEAT_EVERY_S, WorkerRecord, WorkerRegistry
from infra.store.turns.log import TurnLog
from infra.store.turns.turns import TurnStore
from infra.wire.control import TurnWaits
from infra.wire.errors import AgClusterError, StoreUnavailable
from infra.wire.ids import ConversationKey, HostId, TurnId, WorkerId
from infra.wire.states import Hibernation, WorkerState
from tests.fakes.virtual_time import DriftingClock, Kernel
from tests.unit.cluster_model.actors import Places
from tests.unit.cluster_model.line import Line
from tests.unit.cluster_model.machines import Machine, Task
from worker.hosts.capacity import IDLE_AGENT_MB
from worker.hosts.host import ContainerId
from worker.log_flusher import LogFlusher
from worker.ownership import HeldLease, Ownership
from worker.parts import Timings, WorkerParts
from worker.placement.hibernation import LOOK_AT_LEAST_S, LOOK_AT_MOST_S
from worker.placement.placement import Placement
from worker.placement.reaper import Reaper
from worker.placement.sweeping import Fate, container_fate
from worker.side.lane import SideLane
from worker.waiting import periodically

Publish = Callable[[WorkerId, HeldLease, TurnId, int, bytes], None]
Hint = Callable[[TurnId, WorkerId | None], None]

TIMINGS = Timings()
_GIVEN: dict[str, Any] = {"data_dir": Path("/nowhere"), "queue_timeout_s": 3600}
_SETTINGS = Settings(**_GIVEN)


class Hints:
    """The placement queue, as far as the sweeps need it: hints that may come late or never."""

    def __init__(self, hint: Hint) -> None:
        self._hint = hint

    async def enqueue(self, turn: TurnId, owner: WorkerId | None) -> None:
        self._hint(turn, owner)


@dataclass(frozen=True)
class Rules:
    """What every worker keeps to. A test breaks one to see that the invariants notice."""

    fence_after_s: float = SELF_FENCE_AFTER_S
    adopts_only_the_recorded: bool = True
    starts_only_when_sure: bool = True
    counts_suspended: bool = True
    knows_old_messages: bool = True


@dataclass(frozen=True)
class SweepParts:
    """Those of a worker's parts that its sweeps use."""

    worker: WorkerId
    host_id: HostId
    agents: AgentDefaults
    limits: LimitSettings
    timings: Timings
    clock: DriftingClock
    turns: TurnStore
    conversations: ConversationStore
    queue: Hints
    registry: WorkerRegistry


class ModelWorker:
    """One worker, from its start until it is killed or has left."""

    def __init__(
        self,
        worker: WorkerId,
        machine: Machine,
        *,
        line: Line,
        keys: Keys,
        kernel: Kernel,
        chance: random.Random,
        on_publish: Publish,
        hint: Hint,
        task_of: Callable[[TurnId], Task],
        bad_starts: float,
        wall_ahead_s: float,
        has_little_memory: bool,
        rules: Rules,
    ) -> None:
        self.id = worker
        self.machine = machine
        self.process = line.process
        self.line = line
        self.chance = chance
        self.on_publish = on_publish
        self.hint = hint
        self.task_of = task_of
        self.bad_starts = bad_starts
        self.rules = rules
        self._has_little_memory = has_little_memory
        self.clock = DriftingClock(
            kernel,
            offset_s=chance.uniform(0, 1e6),
            rate=chance.uniform(0.95, 1.05),
            wall_ahead_s=wall_ahead_s,
        )
        redis = cast(Redis, line)
        self.turns = TurnStore(redis, keys)
        self.logs = LogFlusher(TurnLog(redis, keys), self.clock)
        self.conversations = ConversationStore(redis, keys)
        self.ownership = Ownership(
            LeaseStore(redis, keys),
            self.clock,
            worker=worker,
            host=machine.host,
            on_cancelled=self._on_cancelled,
            fence_after_s=rules.fence_after_s,
        )
        self.places = Places(self)
        self._kernel = kernel
        self._registry = WorkerRegistry(redis, keys)
        self._room = WaitingRoom(redis, keys)
        self._state = WorkerState.READY
        self._orphans_s: dict[ContainerId, float] = {}
        self._reaper = Reaper(
            self._sweep_parts(), cast(Placement, self.places), cast(SideLane, None)
        )

    def _sweep_parts(self) -> WorkerParts:
        parts = SweepParts(
            worker=self.id,
            host_id=self.machine.host,
            agents=_SETTINGS,
            limits=_SETTINGS,
            timings=TIMINGS,
            clock=self.clock,
            turns=self.turns,
            conversations=self.conversations,
            queue=Hints(self.hint),
            registry=self._registry,
        )
        return cast(WorkerParts, parts)

    async def take_next(self) -> Taken | Elsewhere | NoRoom | None:
        """What the waiting room has for this worker. Raises `StoreUnavailable`."""
        return await self._room.take(
            self.id,
            self.machine.host,
            home_patience_s=TIMINGS.home_patience_s,
            container_mb=IDLE_AGENT_MB,
        )

    async def put_back(self, turn: TurnId) -> None:
        """It was for us, and we are leaving. Raises `StoreUnavailable`."""
        if await self._room.put_back(turn, self.id):
            self.hint(turn, None)

    def start(self) -> None:
        """Begin all loops."""
        self.spawn(self.ownership.run())
        self.spawn(self._flush_logs())
        self.spawn(self._repeat(self._beat, "heartbeat", BEAT_EVERY_S, BEAT_EVERY_S))
        at_least_s, at_most_s = TIMINGS.sweep_at_least_s, TIMINGS.sweep_at_most_s
        self.spawn(self._repeat(self._reaper.sweep, "sweep", at_least_s, at_most_s))
        self.spawn(self._reaper.idle.run())
        if self._has_little_memory:
            self.spawn(
                self._repeat(self._hibernate, "hibernation", LOOK_AT_LEAST_S, LOOK_AT_MOST_S)
            )
        every_s = TIMINGS.reconcile_every_s
        self.spawn(self._repeat(self._reconcile, "reconcile", every_s, every_s))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that lives and dies with this process."""
        self._kernel.spawn(self.process, work)

    def leave(self) -> None:
        """SIGTERM: hand everything over, then be gone."""
        self.places.is_closed = True
        self._state = WorkerState.DRAINING
        self.spawn(self._leave())

    def retire(self) -> None:
        """Its containers stop first, for no other worker will follow."""
        self.places.is_closed = True
        self._state = WorkerState.DRAINING
        self.spawn(self._leave(is_retiring=True))

    def hears(self, waits: TurnWaits) -> None:
        """A message for it: perhaps late, perhaps again."""
        if actor := self.places.conversations.get(waits.conversation):
            actor.bring(waits)

    async def _leave(self, *, is_retiring: bool = False) -> None:
        with suppress(AgClusterError):
            await self._beat()
        for actor in self.places.conversations.values():
            actor.retire() if is_retiring else actor.hand_over()
        give_up_s = self.clock.monotonic() + 5.0
        while self.places.conversations and self.clock.monotonic() < give_up_s:
            await self.clock.sleep(0.1)
        self.process.is_dead = True

    async def _repeat(
        self,
        step: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        least_s: float,
        most_s: float,
    ) -> None:
        await periodically(step, self.clock, name=name, at_least_s=least_s, at_most_s=most_s)

    async def _beat(self) -> None:
        await self._registry.beat(
            WorkerRecord(
                worker=self.id,
                host=self.machine.host,
                pid=1,
                version="1",
                slots=99,
                used=len(self.places.conversations),
                state=self._state,
                started_ms=self.clock.unix_ms(),
            )
        )

    async def _hibernate(self) -> None:
        """One at a time, as a host does whose memory stays low."""
        actors = self.places.conversations.values()
        resting = [one for one in actors if one.is_resting and not one.is_being_stopped]
        if resting:
            min(resting, key=lambda one: one.idle_since_s).hibernate(Hibernation.MEMORY)

    async def _flush_logs(self) -> None:
        """As `LogFlusher.run`, which waits for signals."""
        while True:
            await self.clock.sleep(self.chance.uniform(0.02, 0.3))
            self.logs.ripen()
            with suppress(StoreUnavailable):
                await self.logs.flush()

    async def _reconcile(self) -> None:
        """As the real one, without files."""
        others = frozenset(w.worker for w in await self._registry.alive() if w.worker != self.id)
        for container in self.machine.list():
            actor = self.places.conversations.get(container.conversation)
            record = None
            if actor is None:
                record = await self.conversations.get(container.conversation)
            fate = container_fate(
                container,
                record,
                my_host=self.machine.host,
                is_mine=actor is not None,
                mine=actor.container if actor else None,
                others_alive=others,
            )
            if fate is Fate.LEFT_BEHIND:
                self.machine.remove(container.id)
                continue
            if fate is Fate.ORPHAN:
                now_s = self.clock.monotonic()
                since_s = self._orphans_s.setdefault(container.id, now_s)
                if now_s - since_s >= TIMINGS.orphan_grace_s:
                    self.machine.remove(container.id)
                continue
            self._orphans_s.pop(container.id, None)
            if fate is Fate.ADOPT:
                await self.places.place(container.conversation, may_exceed=True)

    def _on_cancelled(self, c: ConversationKey, turn: TurnId, reason: str) -> None:
        if actor := self.places.conversations.get(c):
            actor.cancel(turn)
