"""`python -m worker.engine_proxy.main --listen SOCKET`: what a worker talks to instead of the
engine.

Takes the worker's settings and `DOCKER_HOST`. It reads the data folder (read-only access is
enough), and talks to nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from infra.metrics.serve import show_metrics
from infra.runtime.bounded_server import take_connections
from infra.runtime.console import complain
from infra.runtime.http_log import http_log
from infra.runtime.lifecycle import stop_signals
from infra.runtime.logs import RatedLog, configure_logs, fields
from infra.runtime.settings import MetricsSettings, SettingsRefused, load_settings
from infra.runtime.sockets import listen_at
from infra.wire.errors import AgClusterError
from worker.engine_proxy.rules import Rules
from worker.engine_proxy.server import EngineProxy
from worker.hosts.docker.engine import engine_address

log = logging.getLogger(__name__)

SOCKET_MODE = 0o600
CONNECTIONS_MAX = 256
"""Concurrent connections. A worker uses ten for calls and one for events, `agcluster doctor` a
few."""
_LOCAL = "unix://"
_CLOSE_S = 2.0


async def serve(
    rules: Rules,
    listen: Path,
    stop: asyncio.Event,
    *,
    metrics: MetricsSettings | None = None,
    is_ready: asyncio.Event | None = None,
) -> None:
    """Run until `stop` is set. Afterwards the socket is gone. Raises `SocketRefused`."""
    proxy = EngineProxy(rules, socket=rules.options.engine.removeprefix(_LOCAL))
    bound = listen_at(listen, mode=SOCKET_MODE)
    turned_away = RatedLog(log, lines_max=1)
    # Cancelled when the worker disconnects, so that a stream of events ends at once.
    runner = web.AppRunner(
        proxy.app,
        access_log=None,
        logger=http_log,
        shutdown_timeout=_CLOSE_S,
        handler_cancellation=True,
    )
    try:
        await proxy.setup()
        await runner.setup()
        async with asyncio.TaskGroup() as group:
            verifying = group.create_task(proxy.run())
            showing = group.create_task(show_metrics(metrics))
            assert runner.server is not None, "set up just now"
            taking = group.create_task(
                take_connections(
                    bound.socket,
                    runner.server,
                    most=CONNECTIONS_MAX,
                    turned_away=lambda: turned_away.warning("connection closed: too many"),
                )
            )
            log.info("engine proxy up", extra=fields(socket=listen, cluster=rules.options.cluster))
            if is_ready is not None:
                is_ready.set()
            await stop.wait()
            bound.unlink()
            taking.cancel()
            await runner.cleanup()
            verifying.cancel()
            showing.cancel()
    finally:
        bound.unlink()
        await runner.cleanup()
        await proxy.aclose()
        bound.close()
    log.info("engine proxy down")


async def _run(rules: Rules, listen: Path, metrics: MetricsSettings) -> None:
    with stop_signals() as stop:
        await serve(rules, listen, stop, metrics=metrics)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 2 for invalid settings, 1 for a failed start."""
    parser = argparse.ArgumentParser(prog="agcluster engine-proxy")
    parser.add_argument("--listen", type=Path, required=True, help="Unix socket to listen on")
    listen: Path = parser.parse_args(arguments).listen
    try:
        settings = load_settings()
        rules = Rules.of(settings, cluster=settings, engine=engine_address())
        if not rules.options.engine.startswith(_LOCAL):
            raise SettingsRefused("DOCKER_HOST must be the Unix socket of this machine's engine")
    except SettingsRefused as error:
        complain(f"agcluster engine-proxy: {error}")
        return 2
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(_run(rules, listen, settings))
    except AgClusterError as error:
        complain(f"agcluster engine-proxy: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
