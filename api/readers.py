"""Who waits for a turn's answer: a turn that is asked for again has more than one client.

Those of this replica are counted in memory. Of another replica only those count that asked for the
same turn again (`infra.store.readers`), so that turns asked for once cost nothing.
"""

from __future__ import annotations

from collections import Counter

from infra.store.readers import TurnReaders
from infra.store.turns import TurnRecord
from infra.wire.ids import ReplicaId, TurnId


class Readers:
    """The readers of one replica's turns. `ttl_s` is longer than any turn is open."""

    def __init__(self, shared: TurnReaders, *, replica: ReplicaId, ttl_s: float) -> None:
        self._shared = shared
        self._replica = replica
        self._ttl_s = ttl_s
        self._here: Counter[TurnId] = Counter()

    def came(self, turn: TurnId) -> None:
        """One more reads it here."""
        self._here[turn] += 1

    def left(self, turn: TurnId) -> bool:
        """One reads it no more; True when it was the last one here."""
        self._here[turn] -= 1
        if self._here[turn] > 0:
            return False
        del self._here[turn]
        return True

    async def join(self, record: TurnRecord) -> None:
        """Somebody here asked for the turn again, and is about to read it."""
        await self._shared.join(
            record.turn, here=self._replica, first_at=record.replica, ttl_s=self._ttl_s
        )

    async def are_left(self, turn: TurnId) -> bool:
        """The last one here has left: whether anybody waits for the turn, here or elsewhere.

        Raises `StoreUnavailable`.
        """
        if self._here[turn] > 0:
            return True  # Somebody came meanwhile.
        return await self._shared.leave(turn, here=self._replica, ttl_s=self._ttl_s)
