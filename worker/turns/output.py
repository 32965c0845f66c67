"""The output of a turn: each event is published at once and logged soon after, then the end.

Both lanes use it. The end is in the store before anybody is told of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from infra.metrics.worker import TURN_ERRORS, TURN_SECONDS, TURNS
from infra.runtime.logs import fields
from infra.store.turns.history import Memory, TurnBase
from infra.store.turns.records import TurnRecord
from infra.wire.endings import declared_end
from infra.wire.errors import ErrorCode
from infra.wire.events import TurnEnded, encode_event
from infra.wire.frames import Frame
from infra.wire.gateway import TurnMeter
from infra.wire.turns import Lane
from worker.ownership import HeldLease
from worker.parts import TurnParts
from worker.turns.endings import explained_end
from worker.turns.log_writer import TurnLogWriter
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)


class TurnOutput:
    """The events of one claimed turn, numbered from the last one in its log."""

    def __init__(
        self,
        parts: TurnParts,
        held: HeldLease,
        record: TurnRecord,
        *,
        on_logged: Callable[[int], None] = lambda n: None,
        on_broken: Callable[[ErrorCode], None] = lambda code: None,
    ) -> None:
        """`on_logged` and `on_broken` are `TurnLogWriter`'s."""
        self.n = record.seq
        """The newest number."""
        self._parts = parts
        self._held = held
        self._record = record
        self._began_s = parts.clock.monotonic()
        self._log = TurnLogWriter(
            parts.logs,
            held.lease,
            record.turn,
            on_logged=on_logged,
            on_broken=on_broken,
        )

    @property
    def is_full(self) -> bool:
        """Whether too much waits for the log."""
        return self._log.is_full

    def say(self, payload: bytes, *, line: bytes | None = None) -> None:
        """Add the next event. Returns at once. `line` is its complete frame, if already encoded."""
        self.n += 1
        self._publish(line or self._frame(self.n, payload))
        self._log.add(self.n, payload)

    async def run(self) -> None:
        """Have events logged until cancelled. Raises `LeaseLost`."""
        await self._log.run()

    def hurry(self) -> None:
        """Have everything logged at once; `run` does the work."""
        self._log.hurry()

    async def flush(self) -> None:
        """Wait until everything is logged; `run` does the work."""
        await self._log.flush()

    async def append_rest(self) -> None:
        """Log what waits, before handing over. Raises `LeaseLost` and `StoreUnavailable`."""
        await self._log.append_rest()

    async def close(
        self,
        end: TurnEnded,
        *,
        meter: TurnMeter,
        idle_timeout_s: float,
        memory: Memory = Memory.TOLD,
        digest: str | None = None,
        base: TurnBase | None = None,
    ) -> bool:
        """Log the end, close the turn, then publish the end. Returns whether another turn waits.

        The arguments are those of `TurnStore.finish`. Keeps trying while Redis is unavailable.
        Raises `LeaseLost`.
        """
        n, turn = self.n + 1, self._record.turn
        end = explained_end(end, meter)

        async def finish(at: int, broken: ErrorCode | None) -> bool:
            nonlocal end
            if broken:
                end = declared_end(broken).model_copy(update={"usage": end.usage})
            return await until_store_answers(
                lambda: self._parts.turns.finish(
                    self._held.lease,
                    turn,
                    at,
                    end,
                    idle_timeout_s=idle_timeout_s,
                    memory=memory,
                    digest=digest,
                    base=base,
                    meter=meter,
                ),
                self._parts.clock,
            )

        waits = await self._log.finish(finish, n)
        self._publish(self._frame(n, encode_event(end)))
        self._count(end)
        log.info(
            "side turn ended" if self._record.lane is Lane.SIDE else "turn ended",
            extra=fields(turn=turn, state=end.state, code=end.error and end.error.code, n=n),
        )
        return waits

    def _count(self, end: TurnEnded) -> None:
        lane = self._record.lane.value
        TURNS.labels(lane, end.state.value).inc()
        TURN_SECONDS.labels(lane).observe(self._parts.clock.monotonic() - self._began_s)
        if end.error is not None:
            TURN_ERRORS.labels(end.error.code.value).inc()

    def _frame(self, n: int, payload: bytes) -> bytes:
        return Frame(self._record.turn, self._held.fence, n, payload).encode()

    def _publish(self, line: bytes) -> None:
        # After the self-fencing time another worker may be publishing; readers fill the gap from
        # the log.
        if self._held.may_publish():
            self._parts.live.publish(self._record.replica, line)
