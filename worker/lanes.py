"""What the lanes of a worker have in common: how they are served, and their tasks.

A lane is one kind of work: conversations with their agents (`worker.placement.placement`), or side
turns (`worker.side.lane`). Each has capacity of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Generic, Protocol, TypeVar

from infra.wire.ids import ConversationKey, TurnId


class WorkerLane(Protocol):
    """One kind of work of a worker. Start `run` first; the lane's work runs in its task group."""

    @property
    def used(self) -> int:
        """How much of its capacity is in use."""
        ...

    def has_room(self) -> bool:
        """Whether it can take more."""
        ...

    async def claim(self, turn: TurnId) -> None:
        """Follow a hint for this worker: make sure that somebody works on the turn. Takes
        milliseconds.

        Without room, the turn is left to another worker. Raises `StoreUnavailable`.
        """
        ...

    def cancel(self, c: ConversationKey, turn: TurnId) -> None:
        """Somebody wants the turn stopped. It is not an error if the turn is not here."""
        ...

    async def run(self) -> None:
        """Run until cancelled; running work then stops where it is."""
        ...

    async def wait_running(self) -> None:
        """Wait until `run` has started."""
        ...

    def close(self) -> None:
        """Take no more work."""
        ...

    async def drain(self, *, is_retiring: bool) -> None:
        """Close, and end or hand over all work.

        `is_retiring`: nothing may stay on this host. Takes bounded time; what is left then is
        logged.
        """
        ...


Key = TypeVar("Key")
Member = TypeVar("Member")


class Members(Generic[Key, Member]):
    """The work of a lane: members by key, with their tasks in one group."""

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
        """The current members."""
        return self._members

    def has_closed(self) -> bool:
        """Whether no more may be added. May change with every await."""
        return self._is_closed

    def close(self) -> None:
        """From now on, none may be added."""
        self._is_closed = True

    def put(self, key: Key, member: Member) -> None:
        """Add a member, replacing the one with this key."""
        self._members[key] = member
        self._empty.clear()

    def remove(self, key: Key) -> None:
        """Remove a member; its task may still be running."""
        del self._members[key]
        if not self._members:
            self._empty.set()

    def start(self, task: Coroutine[Any, Any, None]) -> None:
        """Run a task in the group. Only while `hold` runs."""
        assert self._group is not None, "the lane is not running"
        self._group.create_task(task)

    async def hold(self, loop: Coroutine[Any, Any, None]) -> None:
        """Provide a task group while this loop runs, and close with it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._running.set()
            try:
                await loop
            finally:
                self.close()

    async def wait_running(self) -> None:
        """Wait until there is a group."""
        await self._running.wait()

    async def wait_empty(self, *, timeout_s: float) -> bool:
        """Wait until there are no members; False if that takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
