"""Cleans up: idle conversations, unclaimed turns, orphaned containers and folders.

Every worker sweeps every few seconds, at random intervals so that the sweeps spread out; scripts
and leases decide who wins. Nothing here runs a turn or stops an owned container: it tells actors,
or asks `Placement` to create one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from infra.runtime.logs import fields
from infra.store.conversations.conversations import ConversationRecord
from infra.store.placement.workers import WorkerRecord
from infra.store.turns.turns import OpenTurnRef
from infra.wire.errors import AgClusterError, ContainerFailed, LeaseLost
from infra.wire.ids import ConversationKey, Fence, HostId, WorkerId
from infra.wire.states import ConversationState, TurnState
from infra.wire.turns import Lane
from worker.hosts.folders.folders import StaleFolder
from worker.hosts.host import Container, ContainerExit, ContainerId
from worker.hosts.stopping import stop_at_once
from worker.lanes import WorkerLane
from worker.parts import WorkerParts
from worker.placement.idle_stops import IdleStops
from worker.placement.leaving import siblings_of
from worker.placement.placement import Placement
from worker.placement.sweeping import Fate, Sweep, container_fate, sweep
from worker.waiting import periodically, signalled

log = logging.getLogger(__name__)

DUE_AT_ONCE = 50
"""Ownerless idle conversations that a sweep gets at once."""


BUNDLES_UNUSED_S = 3600.0
"""An agent's bundle stays on this host for so long after its last container. Far longer than a
start, because a bundle is there before its container is."""
WORKERS_UNSTRETCHED, STRETCH_MAX = 200, 5.0
"""In a larger cluster each worker sweeps less often, in proportion, but at most by this factor."""


class Reaper:
    """The sweeps of one worker."""

    def __init__(self, parts: WorkerParts, placement: Placement, side: WorkerLane) -> None:
        self._parts = parts
        self._placement = placement
        self._side = side
        self._orphans_s: dict[ContainerId, float] = {}
        self._siblings: frozenset[WorkerId] = frozenset()
        self._reconcile_now = asyncio.Event()
        self.idle = IdleStops(
            placement.conversations,
            parts.clock,
            longest_s=2 * parts.agents.idle_timeout_s,
        )
        self.workers = 1
        """The number of workers in the cluster at the last heartbeat."""

    async def run_sweeps(self) -> None:
        """Sweep turns and idle conversations until cancelled.

        Sweeps that all workers make for each other are needed less often from each, the more
        workers there are.
        """
        timings = self._parts.timings
        rhythm = partial(
            periodically,
            clock=self._parts.clock,
            at_least_s=timings.sweep_at_least_s,
            at_most_s=timings.sweep_at_most_s,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self.idle.run())
            group.create_task(rhythm(self.sweep, name="sweep", stretch=self._stretch))

    def _stretch(self) -> float:
        return min(max(self.workers / WORKERS_UNSTRETCHED, 1.0), STRETCH_MAX)

    async def run_reconciler(self) -> None:
        """Reconcile at once, then every 30 s and whenever a sibling has left, until cancelled."""
        while True:
            self._reconcile_now.clear()
            try:
                await self.reconcile()
            except AgClusterError as error:
                log.warning("not reconciled: %s", error)
            except Exception:
                log.exception("reconcile failed")
            await signalled(
                self._reconcile_now,
                self._parts.clock,
                timeout_s=self._parts.timings.reconcile_every_s,
            )

    async def run_trash(self) -> None:
        """Remove what could not be removed before, until cancelled. Slow removals delay nothing
        else."""
        every_s = self._parts.timings.reconcile_every_s
        await periodically(
            partial(asyncio.to_thread, self._parts.folders.drop_trash),
            self._parts.clock,
            name="trash",
            at_least_s=every_s,
            at_most_s=every_s,
        )

    def reconcile_soon(self) -> None:
        """Something was left behind: do not wait for the next round."""
        self._reconcile_now.set()

    # Every few seconds

    async def sweep(self) -> None:
        """One round: unclaimed turns, idle conversations, siblings."""
        await self._notice_siblings()
        await self._sweep_turns()
        await self._sweep_idle()
        await self._sweep_wipes()

    async def _notice_siblings(self) -> None:
        """A worker of this host that has left or drains leaves containers to adopt."""
        siblings = frozenset(w.worker for w in await siblings_of(self._parts) if w.is_staying)
        if self._siblings - siblings:
            self._reconcile_now.set()
        self._siblings = siblings

    async def _sweep_turns(self) -> None:
        after_ms = int(self._parts.timings.unclaimed_after_s * 1000)
        refs = await self._parts.turns.unclaimed(older_than_ms=after_ms)
        for ref in refs:
            await self._sweep_turn(ref)

    async def _sweep_turn(self, ref: OpenTurnRef) -> None:
        parts = self._parts
        turn_host, staying = None, list[WorkerRecord]()
        is_side = ref.lane is Lane.SIDE
        # A side turn has no container: any worker of any host can take it.
        if ref.state is not TurnState.QUEUED and not is_side:
            record = await parts.conversations.get(ref.conversation)
            turn_host = record.host if record else None
        if turn_host not in (None, parts.host_id):
            staying = [w for w in await parts.registry.of_host(turn_host) if w.is_staying]
        verdict = sweep(
            ref,
            me=parts.worker,
            my_host=parts.host_id,
            turn_host=turn_host,
            hosts_alive=frozenset(w.host for w in staying),
            host_patience_s=parts.timings.host_patience_s,
            successor_patience_s=parts.timings.successor_patience_s,
            queue_timeout_s=parts.limits.queue_timeout_s,
        )
        log.debug("unclaimed turn", extra=fields(turn=ref.turn, verdict=verdict))
        match verdict:
            case Sweep.EXPIRE:
                if await parts.turns.expire(ref.turn):
                    log.info("turn expired in the queue", extra=fields(turn=ref.turn))
            case Sweep.PLACE if is_side:
                await self._side.claim(ref.turn)
            case Sweep.HINT if is_side:
                await parts.queue.enqueue_side(ref.turn)
            case Sweep.PLACE | Sweep.END_HERE:
                await self._placement.place(ref.conversation, ref.turn, may_exceed=True)
            case Sweep.HINT:
                await parts.queue.enqueue(ref.turn, ref.owner)
            case Sweep.TELL_HOST:
                await parts.queue.enqueue(ref.turn, staying[0].worker)
            case Sweep.WAIT:
                pass  # A better placed worker has it, or may take it.

    async def _sweep_idle(self) -> None:
        """Handle what the store reports as due and ours; after a full page, the next one."""
        while await self._sweep_idle_page():
            pass

    async def _sweep_idle_page(self) -> bool:
        """Whether there may be more: the page was full, and part of it is ours now."""
        parts, ours = self._parts, self._placement.conversations
        due = await parts.conversations.due(
            parts.worker, parts.host_id, owned=tuple(ours), limit=DUE_AT_ONCE
        )
        found = taken = 0
        for c, owner, _ in due:
            if c not in ours and owner is None:
                # The actor finds the container, or that there is none here. If the host is gone,
                # only the record becomes cold.
                await self._placement.place(c, may_exceed=True)
                found, taken = found + 1, taken + (c in ours)
            if c in ours:
                self.idle.due(c)
        return found >= DUE_AT_ONCE and taken > 0

    async def _sweep_wipes(self) -> None:
        """Handle deleted conversations that still have a container or files here."""
        for c in await self._parts.conversations.wipes(self._parts.host_id):
            actor = self._placement.conversations.get(c)
            if actor is None:
                await self._placement.place(c, may_exceed=True)
            elif await self._parts.conversations.get(c) is None:
                actor.disown()

    # Every half minute

    async def reconcile(self) -> None:
        """Compare this host's containers with the records, in both directions."""
        owned = {c: actor.container for c, actor in self._placement.conversations.items()}
        containers = await self._parts.host.list()
        self._notice_vanished(owned, containers)
        for container in containers:
            await self._settle(container)
        listed = {container.id for container in containers}
        self._orphans_s = {id: s for id, s in self._orphans_s.items() if id in listed}
        in_use = {container.conversation for container in containers}
        await self._tidy_folders(in_use | await self._parts.pool.keys())
        bundles = {container.form.bundle for container in containers if container.form.bundle}
        await asyncio.to_thread(
            self._parts.folders.bundles.drop_unused, bundles, older_than_s=BUNDLES_UNUSED_S
        )

    def _notice_vanished(
        self, owned: dict[ConversationKey, ContainerId | None], containers: Sequence[Container]
    ) -> None:
        """Report containers whose end nobody reported, because the engine lost the event."""
        running = {container.id for container in containers if container.is_running}
        for c, id in owned.items():
            actor = self._placement.conversations.get(c)
            # Only a container that existed before the list was made, and is still the same.
            if id is not None and id not in running and actor and actor.container == id:
                actor.container_exited(ContainerExit(id, c, None, False))

    async def _other_owner(self, record: ConversationRecord | None) -> frozenset[WorkerId]:
        """The conversation's owner, if it is another live worker."""
        if record is None or record.owner in (None, self._parts.worker):
            return frozenset()
        return await self._parts.registry.living({record.owner})

    async def _settle(self, container: Container) -> None:
        actor = self._placement.conversations.get(container.conversation)
        record = None
        if actor is None:
            record = await self._parts.conversations.get(container.conversation)
        fate = container_fate(
            container,
            record,
            my_host=self._parts.host_id,
            is_mine=actor is not None,
            mine=actor.container if actor else None,
            others_alive=await self._other_owner(record),
        )
        if fate is not Fate.KEEP and not _is_on_record(container, record):
            is_left = actor is not None or not await self._placement.restore(container)
            if not is_left:
                fate = Fate.ADOPT
            elif fate is not Fate.LEFT_BEHIND:
                fate = Fate.ORPHAN
        if fate in (Fate.ORPHAN, Fate.LEFT_BEHIND):
            grace_s = self._parts.timings.orphan_grace_s if fate is Fate.ORPHAN else 0.0
            await self._stop_orphan(container, grace_s=grace_s)
            return
        self._orphans_s.pop(container.id, None)
        if fate is Fate.ADOPT:
            await self._placement.place(container.conversation, may_exceed=True)

    async def _stop_orphan(self, container: Container, *, grace_s: float) -> None:
        now_s = self._parts.clock.monotonic()
        since_s = self._orphans_s.setdefault(container.id, now_s)
        if now_s - since_s < grace_s:
            return
        log.warning(
            "orphan stopped",
            extra=fields(id=container.id, conversation=container.conversation),
        )
        # Not its sockets, because the conversation may have another container. Tidying handles
        # them.
        try:
            await self._parts.host.stop(container.id)
        except ContainerFailed as error:
            # One that cannot be stopped must not delay the others.
            log.error("orphan not stopped: %s", error, extra=fields(id=container.id))

    async def _tidy_folders(self, in_use: set[ConversationKey]) -> None:
        """Remove sockets of conversations without a container, and workspaces of deleted ones."""
        folders, timings = self._parts.folders, self._parts.timings
        stale = await asyncio.to_thread(folders.stale_sockets, older_than_s=timings.orphan_grace_s)
        for one in self._unused(stale, in_use):
            record = await self._parts.conversations.get(one.conversation)
            others = await self._other_owner(record)
            if _has_no_session(record, self._parts.host_id, others):
                await self._drop_sockets(one)
        old = await asyncio.to_thread(
            folders.stale_workspaces, older_than_s=self._parts.agents.retention_s
        )
        for one in self._unused(old, in_use):
            record = await self._parts.conversations.get(one.conversation)
            # It belongs to another host, where the conversation has been for longer than the
            # retention.
            if record is None or record.host not in (None, self._parts.host_id):
                log.info("workspace dropped", extra=fields(conversation=one.conversation))
                await self._drop(folders.drop_workspace, one)

    def _unused(
        self, stale: Sequence[StaleFolder], in_use: set[ConversationKey]
    ) -> list[StaleFolder]:
        used = in_use | set(self._placement.conversations)
        return [one for one in stale if one.conversation not in used]

    async def _drop_sockets(self, one: StaleFolder) -> None:
        try:
            await self._parts.gateway.close_session(one.conversation, one.fence)
        except LeaseLost:
            return  # It has an owner again.
        await self._drop(self._parts.folders.drop_sockets, one)

    async def _drop(self, drop: Callable[[ConversationKey, Fence], bool], one: StaleFolder) -> None:
        """Remove it as it was found. A folder that has an owner again stays."""
        try:
            await asyncio.to_thread(drop, one.conversation, one.fence)
        except LeaseLost:
            log.info("folder in use again", extra=fields(conversation=one.conversation))
        except OSError as error:
            told = fields(conversation=one.conversation)
            log.warning("folder not removed: %s", error, extra=told)

    async def stop_all(self, found: Sequence[Container]) -> None:
        """Stop everything on this host, and remove the sockets of containers that ended.

        For the last worker of the host, when it retires.
        """
        host, folders = self._parts.host, self._parts.folders
        await stop_at_once(host, [container.id for container in found])
        left = {container.conversation for container in await host.list()}
        stale = await asyncio.to_thread(folders.stale_sockets, older_than_s=0)
        for one in self._unused(stale, left):
            await self._drop_sockets(one)


def _is_on_record(container: Container, record: ConversationRecord | None) -> bool:
    """Whether Redis knows this container, or one that it could be."""
    return record is not None and (
        record.state is not ConversationState.COLD or record.container is not None
    )


def _has_no_session(
    record: ConversationRecord | None, my_host: HostId, others: frozenset[WorkerId]
) -> bool:
    """Whether a conversation without a container here does not need its sockets either."""
    if record is None or record.host not in (None, my_host):
        return True
    return record.state is ConversationState.COLD and record.owner not in others
