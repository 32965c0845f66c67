"""What others want of a conversation's actor and it has not seen to, and the bell that wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set

from infra.wire.ids import TurnId
from worker.conversations.phases import OF_THE_IDLE, Wish


class Inbox:
    """One actor's. It begins with a turn that may be waiting: that is why there is an actor."""

    def __init__(self) -> None:
        self._cancelled: TurnId | None = None
        self._wishes = {Wish.TURN}
        self._bell = asyncio.Event()

    @property
    def wishes(self) -> Set[Wish]:
        """What is wished now."""
        return frozenset(self._wishes)

    def __contains__(self, wish: Wish) -> bool:
        return wish in self._wishes

    def put(self, wish: Wish) -> None:
        """Wish it, and ring."""
        self._wishes.add(wish)
        self.ring()

    def cancel(self, turn: TurnId) -> None:
        """Somebody wants this turn stopped. It may not be claimed yet."""
        self._cancelled = turn

    def wants_cancelled(self, turn: TurnId) -> bool:
        """Whether this is the last turn that somebody wanted stopped."""
        return turn == self._cancelled

    def take(self, wish: Wish) -> None:
        """It is seen to. One that comes from now on is another."""
        self._wishes.discard(wish)

    def forget_idle(self) -> None:
        """A turn runs, or the container goes: what was wished of an idle one is void."""
        self._wishes -= OF_THE_IDLE

    def ring(self) -> None:
        """Something has changed: have everybody who waits look again."""
        self._bell.set()
        self._bell = asyncio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until this is so; it is looked at now and after each ring."""
        while not is_so():
            await self._bell.wait()
