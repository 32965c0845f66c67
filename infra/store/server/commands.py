"""How commands reach Redis: over the pool, one connection each, or pipelined over one connection.

Scripts and the live publisher only ask a `CommandRunner`. A client made by
`infra.store.server.connection.connect` has a pipelined one; every other client, as a fake in a
test, runs its commands over its pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from redis.asyncio import Redis

Command = Sequence[str | bytes | int]


class CommandRunner(Protocol):
    """Runs commands. Raises what redis-py raises (`infra.store.server.faults.FAULTS`)."""

    async def run(self, *command: str | bytes | int) -> Any:
        """Run a command and return its reply. Cancelling does not undo it."""
        ...

    async def run_first(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Run commands at once, before everything that has not left yet, and return their
        replies."""
        ...

    async def aclose(self) -> None:
        """Fail what waits, and run nothing more."""
        ...


class PooledCommands:
    """Each command on a connection of the client's pool, with the pool's deadline and retry."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def run(self, *command: str | bytes | int) -> Any:
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def run_first(self, commands: Sequence[Command]) -> Sequence[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute()

    async def aclose(self) -> None:
        """Nothing of its own: who made the client closes it."""


class StoreClient(Redis):
    """A client that also has one connection for commands. `aclose` closes that too."""

    commands: CommandRunner

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await self.commands.aclose()
        await super().aclose(close_connection_pool)


def runner_of(redis: Redis) -> CommandRunner:
    """How this client's commands travel."""
    return redis.commands if isinstance(redis, StoreClient) else PooledCommands(redis)
