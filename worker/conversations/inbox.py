"""The requests to a conversation's actor that it has not handled yet, and the bell that wakes
it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set

from infra.wire.control import TurnWaits
from infra.wire.ids import TurnId
from worker.conversations.phases import OF_THE_IDLE, Wish


class Inbox:
    """The inbox of one actor. It starts with a turn that may be waiting, because that is why the
    actor exists."""

    def __init__(self) -> None:
        self._cancelled: TurnId | None = None
        self._begun: TurnWaits | None = None
        self._newest_begun: TurnId | None = None
        self._wishes = {Wish.TURN}
        self._bell = asyncio.Event()

    @property
    def wishes(self) -> Set[Wish]:
        """The current wishes."""
        return frozenset(self._wishes)

    def __contains__(self, wish: Wish) -> bool:
        return wish in self._wishes

    def put(self, wish: Wish) -> None:
        """Add a wish, and ring."""
        self._wishes.add(wish)
        self.ring()

    def bring(self, waits: TurnWaits) -> None:
        """A turn waits, and may have been begun for us. Of several the newest counts: a claim
        finds the others in the store."""
        if waits.begun:
            self._begun = waits
            self._newest_begun = waits.turn
        self.put(Wish.TURN)

    def take_begun(self) -> TurnWaits | None:
        """The message of a begun turn, once."""
        begun, self._begun = self._begun, None
        return begun

    def cancel(self, turn: TurnId) -> None:
        """Somebody wants this turn stopped. It may not be claimed yet."""
        self._cancelled = turn

    def cancel_begun(self) -> None:
        """Somebody wants the conversation stopped, and with it the turn that was begun for us last,
        if it has not started."""
        self._cancelled = self._newest_begun or self._cancelled

    def wants_cancelled(self, turn: TurnId) -> bool:
        """Whether this is the last turn that somebody wanted stopped."""
        return turn == self._cancelled

    def take(self, wish: Wish) -> None:
        """Mark the wish as handled. A later one is a new wish."""
        self._wishes.discard(wish)

    def forget_idle(self) -> None:
        """A turn runs, or the container is being stopped: wishes for an idle actor no longer
        apply."""
        self._wishes -= OF_THE_IDLE

    def ring(self) -> None:
        """Something has changed: wake everybody who waits."""
        self._bell.set()
        self._bell = asyncio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the condition is true; it is checked now and after each ring."""
        while not is_so():
            await self._bell.wait()
