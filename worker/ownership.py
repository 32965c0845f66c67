"""The leases of this worker: acquired, renewed together, released.

One loop renews all of them every 5 s. A lease that was not confirmed for 10 s fences itself:
nothing more is published under it until Redis confirms it again, because after 15 s another worker
may own the conversation. The time is measured by this machine's clock, including time in which it
was suspended. The check is made at each use and needs no timer, so a process that was frozen finds
its leases fenced at its first instruction afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from infra.metrics.worker import LEASES_LOST
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.conversations.leases import RENEW_EVERY_S, SELF_FENCE_AFTER_S, Lease, LeaseStore
from infra.wire.errors import LeaseLost, StoreUnavailable
from infra.wire.ids import ConversationKey, Fence, HostId, TurnId, WorkerId
from infra.wire.states import ConversationState

log = logging.getLogger(__name__)

CancelListener = Callable[[ConversationKey, TurnId, str], None]

_NO_FENCE = Fence(0)
_RETRY_AFTER_S = 1.0
_ROUND_LATE = 1.2
"""This many rounds without a confirmation are not a coincidence."""


class HeldLease:
    """A lease, and when it was last confirmed."""

    def __init__(
        self, lease: Lease, clock: Clock, *, confirmed_s: float, fence_after_s: float
    ) -> None:
        self.lease = lease
        self.lost = asyncio.Event()
        self._news = asyncio.Event()
        self._clock = clock
        self._confirmed_s = confirmed_s
        self._fence_after_s = fence_after_s
        self._is_given_up = False

    @property
    def conversation(self) -> ConversationKey:
        return self.lease.conversation

    @property
    def fence(self) -> Fence:
        return self.lease.fence

    def may_publish(self) -> bool:
        """Whether nobody else can own the conversation yet, as far as this machine can tell."""
        if self.lost.is_set() or self._is_given_up:
            return False
        return self.unconfirmed_s < self._fence_after_s

    @property
    def unconfirmed_s(self) -> float:
        """Seconds since Redis last confirmed that the lease is ours."""
        return self._clock.monotonic() - self._confirmed_s

    async def until_sure(self) -> None:
        """Wait until it is certain that nobody else owns the conversation. Raises `LeaseLost`.

        Call this before starting anything: a process that was frozen continues in the middle of its
        work, and another worker may have taken over meanwhile.
        """
        while not self.may_publish():
            if self.lost.is_set() or self._is_given_up:
                raise LeaseLost(self.conversation, self.fence)
            self._news.clear()
            await self._news.wait()

    async def until_lost(self) -> None:
        """Wait until the lease is lost, then raise `LeaseLost`. Run it beside work under the
        lease."""
        await self.lost.wait()
        raise LeaseLost(self.conversation, self.fence)

    def confirm(self, asked_s: float) -> None:
        """Redis confirmed the lease in answer to a question asked at this time."""
        self._confirmed_s = asked_s
        self._news.set()

    def lose(self) -> None:
        """The lease belongs to another worker, or to nobody. This is final."""
        self.lost.set()
        self._news.set()

    def give_up(self) -> None:
        """We no longer want it: nothing is published under it, and its loss is not reported."""
        self._is_given_up = True
        self._news.set()


class Ownership:
    """All leases of one worker process."""

    def __init__(
        self,
        leases: LeaseStore,
        clock: Clock,
        *,
        worker: WorkerId,
        host: HostId,
        on_cancelled: CancelListener,
        renew_every_s: float = RENEW_EVERY_S,
        fence_after_s: float = SELF_FENCE_AFTER_S,
    ) -> None:
        """`on_cancelled` is called for unfinished turns that somebody wants stopped, again in each
        round."""
        self._leases = leases
        self._clock = clock
        self._worker = worker
        self._host = host
        self._on_cancelled = on_cancelled
        self._renew_every_s = renew_every_s
        self._fence_after_s = fence_after_s
        self._held: dict[ConversationKey, HeldLease] = {}
        self._newest = _NO_FENCE

    def __len__(self) -> int:
        return len(self._held)

    async def acquire(self, c: ConversationKey, *, above: Fence = _NO_FENCE) -> HeldLease:
        """Acquire a lease. `above` is the newest fence of an owner that this host remembers.

        Raises `LeaseHeld` and `StoreUnavailable`.
        """
        asked_s = self._clock.monotonic()
        above = max(above, self._newest)
        lease = await self._leases.acquire(c, self._worker, self._host, above=above)
        self._newest = max(self._newest, lease.fence)
        held = HeldLease(lease, self._clock, confirmed_s=asked_s, fence_after_s=self._fence_after_s)
        if former := self._held.get(c):
            former.lose()
        self._held[c] = held
        return held

    def superseded(self, c: ConversationKey, fence: Fence) -> None:
        """Somebody has seen this newer owner: an older lease of ours is lost."""
        held = self._held.get(c)
        if held is not None and held.fence <= fence:
            log.warning("lease lost", extra=fields(conversation=c, fence=held.fence))
            held.lose()
            LEASES_LOST.inc()
            self.forget(held)

    async def make_sure(self, held: HeldLease) -> None:
        """Like `HeldLease.until_sure`, before an irreversible step: Redis is asked if the last
        round should have confirmed the lease and did not. Raises `LeaseLost`."""
        if held.unconfirmed_s > self._renew_every_s * _ROUND_LATE:
            await self.renew()
        await held.until_sure()

    async def release(
        self, held: HeldLease, state: ConversationState, *, runs: TurnId | None = None
    ) -> TurnId | None:
        """Release the lease at once, here and in Redis. Returns a waiting turn. `runs` is the turn
        that an agent may have from us.

        Raises `StoreUnavailable`; then the lease expires.
        """
        self.forget(held)
        return await self._leases.release(held.lease, state, runs=runs)

    def forget(self, held: HeldLease) -> None:
        """No longer renew it."""
        held.give_up()
        if self._held.get(held.conversation) is held:
            del self._held[held.conversation]

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            began_s = self._clock.monotonic()
            done = await self.renew()
            wait_s = self._renew_every_s if done else min(_RETRY_AFTER_S, self._renew_every_s)
            took_s = self._clock.monotonic() - began_s
            await self._clock.sleep(max(0.0, wait_s - took_s))

    async def renew(self) -> bool:
        """Renew all leases once. False if Redis did not answer."""
        round_of = list(self._held.values())
        if not round_of:
            return True
        # The time before the question, not after the answer: the lease runs from when Redis got it.
        asked_s = self._clock.monotonic()
        try:
            renewal = await self._leases.renew([held.lease for held in round_of])
        except StoreUnavailable as error:
            log.warning("leases not renewed: %s", error, extra=fields(leases=len(round_of)))
            return False
        for held in round_of:
            if held.conversation in renewal.lost:
                log.warning(
                    "lease lost", extra=fields(conversation=held.conversation, fence=held.fence)
                )
                held.lose()
                LEASES_LOST.inc()
                self.forget(held)
            else:
                held.confirm(asked_s)
        for c, (turn, reason) in renewal.cancelled.items():
            self._on_cancelled(c, turn, reason)
        return True
