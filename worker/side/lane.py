"""The side lane: turns that are one model call, without a container, slot or memory.

A hint names a turn. Taking it needs milliseconds: acquire the lease of its conversation, which has
no other turns, and run it in a task of its own. The call goes through the host's gateway. Its
answer is published and logged like an agent's, so relays cannot tell the difference. If a turn's
worker dies before its first output, the turn runs again elsewhere; otherwise it ends visibly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from infra.runtime.logs import fields
from infra.wire.errors import (
    AgClusterError,
    LeaseHeld,
)
from infra.wire.ids import ConversationKey, TurnId
from infra.wire.link import InterruptReason
from worker.lanes import Members
from worker.parts import SideParts
from worker.side.run import SideRun

log = logging.getLogger(__name__)

PLACES = 32
"""Concurrent side turns of a worker; they wait for the model nearly all the time."""


class SideLane:
    """All side turns of this worker. Start `run` first; the turns run in its task group."""

    def __init__(
        self,
        parts: SideParts,
        *,
        places: int = PLACES,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_room` is called whenever a turn has left."""
        self._parts = parts
        self._places = places
        self._on_room = on_room
        self._members: Members[TurnId, SideRun | None] = Members()
        """None: being claimed."""

    @property
    def used(self) -> int:
        return len(self._members)

    def has_room(self) -> bool:
        """Whether it can take another turn."""
        return not self._members.has_closed() and self.used < self._places

    async def run(self) -> None:
        """Run the turns until cancelled; they then stop where they are."""
        await self._members.hold(_for_ever())

    async def wait_running(self) -> None:
        """Wait until `run` has its task group."""
        await self._members.wait_running()

    async def claim(self, turn: TurnId) -> None:
        """Follow a hint: own the turn's conversation and start it. Raises `StoreUnavailable`.

        Without room the hint is passed on. A turn that another worker owns is left alone.
        """
        if turn in self._members.by_key:
            return
        if not self.has_room():
            await self._parts.queue.enqueue_side(turn)
            return
        self._members.put(turn, None)
        run: SideRun | None = None
        try:
            run = await self._own(turn)
        finally:
            if run is None:
                self._leave(turn)
        if run is not None:
            self._members.put(turn, run)
            self._members.start(self._supervise(turn, run))

    async def _own(self, turn: TurnId) -> SideRun | None:
        record = await self._parts.turns.get(turn)
        if record is None or record.state.is_terminal:
            return None
        try:
            held = await self._parts.ownership.acquire(record.conversation)
        except LeaseHeld:
            return None
        return SideRun(self._parts, held, turn)

    def cancel(self, c: ConversationKey, turn: TurnId) -> None:
        """Somebody wants the turn stopped."""
        if run := self._members.by_key.get(turn):
            run.interrupt(InterruptReason.CANCELLED)

    def close(self) -> None:
        """Take no more turns."""
        self._members.close()

    async def drain(self, *, is_retiring: bool) -> None:
        """See `WorkerLane`: let running turns end, stop the rest.

        Nobody can take over a side turn, but it takes only seconds.
        """
        self.close()
        parts = self._parts
        if await self._members.wait_empty(timeout_s=parts.cluster.drain_timeout_s):
            return
        for run in self._members.by_key.values():
            if run is not None:
                run.interrupt(InterruptReason.SHUTDOWN)
        if not await self._members.wait_empty(timeout_s=parts.timings.hand_over_s):
            log.warning("side turns are left", extra=fields(used=self.used))

    async def _supervise(self, turn: TurnId, run: SideRun) -> None:
        try:
            await run.run()
        except AgClusterError as error:
            log.warning("side turn left to the sweepers: %s", error, extra=fields(turn=turn))
        except Exception:
            # One failing turn must not affect the others; its lease expires and another worker ends
            # it.
            log.exception("side turn failed inside the worker", extra=fields(turn=turn))
        finally:
            run.forget()
            self._leave(turn)

    def _leave(self, turn: TurnId) -> None:
        self._members.remove(turn)
        self._on_room()


async def _for_ever() -> None:
    await asyncio.Event().wait()
