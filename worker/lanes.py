"""What the lanes of a worker have in common: how they are served, and the tasks they hold.

A lane is one kind of work: conversations with their agents (`worker.placement.placement`), side
turns (`worker.side.lane`). Each has room of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Generic, Protocol, TypeVar

from infra.wire.ids import ConversationKey, TurnId


class WorkerLane(Protocol):
    """One kind of work of a worker. `run` first; what it works on lives in its task group."""

    @property
    def used(self) -> int:
        """How much of its room is taken."""
        ...

    def has_room(self) -> bool:
        """Whether more may come."""
        ...

    async def claim(self, turn: TurnId) -> None:
        """A hint for this worker: see that somebody works on the turn. Takes milliseconds.

        Without room it is left to another worker. Raises `StoreUnavailable`.
        """
        ...

    def cancel(self, c: ConversationKey, turn: TurnId) -> None:
        """Somebody wants the turn stopped; one that is not here is no error."""
        ...

    async def run(self) -> None:
        """Until cancelled; what it works on then stops where it is."""
        ...

    async def wait_running(self) -> None:
        """Until `run` has begun."""
        ...

    def close(self) -> None:
        """Take nothing any more."""
        ...

    async def drain(self, *, is_retiring: bool) -> None:
        """Close, and be left by everything: ended or handed over.

        `is_retiring`: nothing is to stay on this host. Bounded; what is left then is logged.
        """
        ...


Key = TypeVar("Key")
Member = TypeVar("Member")


class Members(Generic[Key, Member]):
    """What a lane works on: members by their key, their tasks in one group."""

    def __init__(self) -> None:
        self._members: dict[Key, Member] = {}
        self._group: asyncio.TaskGroup | None = None
        self._running = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._members)

    @property
    def by_key(self) -> Mapping[Key, Member]:
        """The members, as they come and go."""
        return self._members

    def has_closed(self) -> bool:
        """Whether nothing is to come any more. It may change with every await."""
        return self._is_closed

    def close(self) -> None:
        """From now on nothing is to come."""
        self._is_closed = True

    def put(self, key: Key, member: Member) -> None:
        """It is a member now, in the place of the one with this key."""
        self._members[key] = member
        self._empty.clear()

    def remove(self, key: Key) -> None:
        """It is no member any more; its task may still have something to do."""
        del self._members[key]
        if not self._members:
            self._empty.set()

    def start(self, task: Coroutine[Any, Any, None]) -> None:
        """Have it done in the group. Only while `hold` runs."""
        assert self._group is not None, "the lane is not running"
        self._group.create_task(task)

    async def hold(self, loop: Coroutine[Any, Any, None]) -> None:
        """Have a group of tasks while this loop runs, and close with it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._running.set()
            try:
                await loop
            finally:
                self.close()

    async def wait_running(self) -> None:
        """Until there is a group."""
        await self._running.wait()

    async def wait_empty(self, *, timeout_s: float) -> bool:
        """Until there is no member; False when that takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
