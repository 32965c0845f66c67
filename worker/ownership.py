"""The leases this worker holds: acquired, renewed together, given up.

One loop renews all of them every 5 s. A lease that could not be confirmed for 10 s by this
machine's clock, which counts what it was suspended for, fences itself: nothing more is published
under it until Redis confirms it again, for by 15 s another worker may own the conversation. That
test is made at each use and needs no timer, so a process that was frozen finds its leases fenced at
the first instruction after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

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
"""So many rounds without a confirmation are no chance any more."""


class HeldLease:
    """A lease and how fresh our belief in it is."""

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
        """For how long Redis has not said that it is ours."""
        return self._clock.monotonic() - self._confirmed_s

    async def until_sure(self) -> None:
        """Wait until nobody else can own the conversation yet. Raises `LeaseLost`.

        Before anything is started: a process that was frozen comes to itself in the middle of
        whatever it did, and may be somebody else's predecessor by then.
        """
        while not self.may_publish():
            if self.lost.is_set() or self._is_given_up:
                raise LeaseLost(self.conversation, self.fence)
            self._news.clear()
            await self._news.wait()

    async def until_lost(self) -> None:
        """Wait for its loss, and raise `LeaseLost` then: a task beside what is done under it."""
        await self.lost.wait()
        raise LeaseLost(self.conversation, self.fence)

    def confirm(self, asked_s: float) -> None:
        """Redis confirmed it to a question asked then."""
        self._confirmed_s = asked_s
        self._news.set()

    def lose(self) -> None:
        """It is another's, or nobody's. There is no way back."""
        self.lost.set()
        self._news.set()

    def give_up(self) -> None:
        """We want it no more: nothing is published under it, and nobody is told of a loss."""
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
        """`on_cancelled` hears of unfinished turns somebody wants stopped, again at each round."""
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
        """`above` is a fence that an owner has had, as far as this host remembers.

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
        """Somebody has seen a newer owner than that: a lease of ours that is older is lost."""
        held = self._held.get(c)
        if held is not None and held.fence <= fence:
            log.warning("lease lost", extra=fields(conversation=c, fence=held.fence))
            held.lose()
            self.forget(held)

    async def make_sure(self, held: HeldLease) -> None:
        """As `HeldLease.until_sure`, before what cannot be taken back: Redis is asked when the last
        round should have confirmed the lease and has not. Raises `LeaseLost`.
        """
        if held.unconfirmed_s > self._renew_every_s * _ROUND_LATE:
            await self.renew()
        await held.until_sure()

    async def release(self, held: HeldLease, state: ConversationState) -> TurnId | None:
        """Give it up at once, here and in Redis; a turn that waits is returned.

        Raises `StoreUnavailable`; it then lapses.
        """
        self.forget(held)
        return await self._leases.release(held.lease, state)

    def forget(self, held: HeldLease) -> None:
        """Renew it no more."""
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
        """One round over all leases; False when Redis did not answer."""
        round_of = list(self._held.values())
        if not round_of:
            return True
        # Before the question, not after the answer: the lease counts from when Redis saw it.
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
                self.forget(held)
            else:
                held.confirm(asked_s)
        for c, (turn, reason) in renewal.cancelled.items():
            self._on_cancelled(c, turn, reason)
        return True
