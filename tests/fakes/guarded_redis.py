"""A redis-server with the users that are shipped, and one more for the test to look at it.

async with guarded_redis() as server:
    client = connect(server.as_user("api"), ...)
    assert not await server.denials()
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from tests.fakes.redis_server import RealRedis

USERS = Path(__file__).resolve().parents[2] / "infra" / "images" / "users.acl"
_WATCHER = "user watcher on >watcher-password ~* &* +@all"


def filled_users() -> str:
    """The shipped file with passwords, and the watcher."""
    filled = re.sub(
        r"\$\{REDIS_(\w+)_PASSWORD\}",
        lambda found: f"{found[1].lower()}-password",
        USERS.read_text(),
    )
    return f"{filled.rstrip()}\n{_WATCHER}\n"


class GuardedRedis(RealRedis):
    """TurnFiles by `guarded_redis`. Each user's password is its name and `-password`."""

    _greeting = b"AUTH watcher watcher-password\r\n"

    def __init__(self, *, config: Path | None = None, users: str | None = None) -> None:
        # Nothing but the users' rights stands in the way of anything.
        options = ("--aclfile", "users.acl", "--enable-debug-command", "yes")
        super().__init__(options=options, config=config)
        (self.folder / "users.acl").write_text(users or filled_users())

    def as_user(self, user: str) -> str:
        """The URL for a user."""
        return f"{self.url}?username={user}&password={user}-password"

    async def forget_everything(self) -> None:
        """FLUSHALL and SCRIPT FLUSH."""
        async with Redis.from_url(self.as_user("watcher")) as watcher:
            await watcher.flushall()
            await watcher.script_flush()

    async def denials(self) -> Sequence[str]:
        """Everything anybody was refused, and who."""
        async with Redis.from_url(self.as_user("watcher")) as watcher:
            log = await watcher.acl_log()
        return [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in log]


@asynccontextmanager
async def guarded_redis(
    *, config: Path | None = None, users: str | None = None
) -> AsyncIterator[GuardedRedis]:
    """A started server, removed at the end.

    `config` is its redis.conf, `users` its users where they are not those that are shipped.
    """
    server = GuardedRedis(config=config, users=users)
    try:
        await server.start()
        yield server
    finally:
        server.remove()
