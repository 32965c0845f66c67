"""A running turn's usage, and what its budgets leave.

The gateway meters. This reads the meter every few seconds, books what is new under the turn's
fence, and tells the gateway where the budgets end, because other turns of the tenant may use them
up meanwhile. Used by `worker.turns.run` and `worker.side.lane`. Without budgets, nothing is read
before a turn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from infra.runtime.logs import fields
from infra.store.access.usage import Spent
from infra.store.turns.turns import TurnRecord
from infra.wire.errors import GatewayUnavailable, StoreUnavailable
from infra.wire.events import TurnEnded, Usage
from infra.wire.gateway import OpenTurn, TurnMeter
from worker.ownership import HeldLease
from worker.parts import TurnParts
from worker.turns.endings import budget_end
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)


class Spending:
    """The spending of one claimed turn."""

    def __init__(
        self,
        parts: TurnParts,
        held: HeldLease,
        record: TurnRecord,
        *,
        is_taken_over: bool = False,
        agent_budget_tokens: int | None = None,
        callers_budget_tokens: int | None = None,
        may_lend: bool = False,
        on_overrun: Callable[[], None] = lambda: None,
    ) -> None:
        """`is_taken_over`: another worker may have booked for the turn before.
        `agent_budget_tokens`: what a turn of its agent may spend, if that is less than what any
        turn may. `callers_budget_tokens`: what the turn whose agent called this one's leaves to it.
        `may_lend`: its own agent may call others. `on_overrun` is called when the gateway has
        stopped calls of the turn because of its budget."""
        self._parts = parts
        self._held = held
        self._on_overrun = on_overrun
        self._record = record
        own = parts.budgets.turn_budget_tokens
        budgets = (own, agent_budget_tokens, callers_budget_tokens)
        self._turn_budget = min((tokens for tokens in budgets if tokens), default=0)
        self._tenant_budget = parts.budgets.tenant_budget_tokens
        self._booked: TurnMeter | None = None
        self._is_taken_over = is_taken_over
        self._instances: set[str] = set()
        """Instances of the gateway whose figures are booked."""
        self._may_lend = may_lend
        self._lent_tokens = 0
        """What agents that its agent has called have used, or may still use."""
        self._spent_tokens = 0
        self.budget_tokens: int | None = None
        """The value up to which the gateway's own meter of the turn may count; None for no
        limit."""

    @property
    def has_budget(self) -> bool:
        return bool(self._turn_budget or self._tenant_budget)

    async def free_tokens(self) -> int | None:
        """What is left of the turn's own budget, for its agent and for those that it calls; None
        if it has none. Raises `StoreUnavailable`."""
        if not self._turn_budget:
            return None
        await self._note_lent()
        return max(0, self._turn_budget - self._spent_tokens - self._lent_tokens)

    async def _note_lent(self) -> None:
        if self._turn_budget and self._may_lend:
            self._lent_tokens = await self._parts.turns.lent_tokens(self._record.turn)

    async def begin(self) -> TurnEnded | None:
        """Check the budgets before the turn is started. Returns the turn's end if none is left.

        Keeps trying while Redis is unavailable. Raises `LeaseLost`.
        """
        if not self.has_budget:
            return None
        # Of an adopted turn, the gateway may have metered what no worker has booked.
        meter = await self._read() or TurnMeter()
        await until_store_answers(self._note_lent, self._parts.clock)
        spent = await until_store_answers(lambda: self._book(meter), self._parts.clock)
        self.budget_tokens = self._limit(meter, spent)
        return self._end_if_spent(spent)

    async def look(self, request: Callable[[], OpenTurn]) -> None:
        """Book what is new and adjust the budgets. `request` is the command for the gateway.

        If store or gateway are away, the next look does it. Raises `LeaseLost`.
        """
        try:
            await self._look(request)
        except (StoreUnavailable, GatewayUnavailable) as error:
            log.warning("usage not booked now: %s", error, extra=fields(turn=self._record.turn))

    async def end_of_overrun(self, meter: TurnMeter) -> TurnEnded | None:
        """The end of a turn that the gateway stopped because of its budget; None for any other.

        Keeps trying while Redis is unavailable. Raises `LeaseLost`.
        """
        if not meter.is_over_budget:
            return None
        spent = await until_store_answers(lambda: self._book(meter), self._parts.clock)
        return self._end_if_spent(spent) or budget_end()

    async def total(self, meter: TurnMeter) -> Usage | None:
        """The turn's total booked usage; None if there is none. `meter` is its last reading.

        Keeps trying while Redis is unavailable. Raises `LeaseLost`.
        """
        if not self._is_taken_over and self._instances <= {meter.instance}:
            return meter.usage if meter.usage != Usage() else None
        # Another start of the gateway, or another worker, has booked a part of it.
        await until_store_answers(lambda: self._book(meter), self._parts.clock)
        turn = self._record.turn
        record = await until_store_answers(lambda: self._parts.turns.get(turn), self._parts.clock)
        return record.usage if record else None

    async def _look(self, request: Callable[[], OpenTurn]) -> None:
        meter = await self._read()
        if meter is None:
            return
        if meter.is_over_budget:
            self._on_overrun()
        await self._note_lent()
        # The tenant's other turns spend as well, and so do agents that were called.
        if meter == self._booked and not (self._tenant_budget or self._may_lend):
            return
        spent = await self._book(meter)
        limit = self._limit(meter, spent)
        if limit != self.budget_tokens:
            self.budget_tokens = limit
            await self._parts.gateway.open_turn(request())

    async def _read(self) -> TurnMeter | None:
        """None if the gateway does not know the turn, or does not answer."""
        try:
            return await self._parts.gateway.meter(self._record.turn)
        except GatewayUnavailable:
            return None

    async def _book(self, meter: TurnMeter) -> Spent:
        spent = await self._parts.usage.book(self._held.lease, self._record.turn, meter)
        self._booked = meter
        self._spent_tokens = spent.turn_tokens
        self._instances.add(meter.instance)
        return spent

    def _limit(self, meter: TurnMeter, spent: Spent) -> int | None:
        """The value of this meter at which the first of the budgets is used up."""
        left = []
        if self._turn_budget:
            left.append(self._turn_budget - spent.turn_tokens - self._lent_tokens)
        if self._tenant_budget:
            left.append(self._tenant_budget - spent.tenant_tokens)
        return meter.usage.spent_tokens + max(0, min(left)) if left else None

    def _end_if_spent(self, spent: Spent) -> TurnEnded | None:
        if self._tenant_budget and spent.tenant_tokens >= self._tenant_budget:
            return budget_end(day_ends_in_s=spent.day_ends_in_s)
        if self._turn_budget and spent.turn_tokens + self._lent_tokens >= self._turn_budget:
            return budget_end()
        return None
