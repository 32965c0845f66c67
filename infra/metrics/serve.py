"""`GET /metrics` on a port of its own, which is for operators only.

It is off unless a port is set, and then reachable from this machine only, unless another address is
set as well. A port that is taken stops nobody's work: the program tries again, because the program
that has it may be leaving.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from infra.metrics.families import registry
from infra.runtime.bounded_server import take_connections
from infra.runtime.http_log import http_log
from infra.runtime.logs import RatedLog, fields
from infra.runtime.settings.cluster import MetricsSettings

log = logging.getLogger(__name__)

PATH = "/metrics"
CONNECTIONS_MAX = 16
RETRY_S = 5.0
"""Seconds between two tries to listen."""


def nothing_to_look_at() -> None:
    """For a program whose families need no look."""


async def show_metrics(
    settings: MetricsSettings | None, *, look: Callable[[], None] = nothing_to_look_at
) -> None:
    """Show the metrics of this process until cancelled, or nothing if no port is set.

    `look` is called in the loop before each answer, to set gauges to what is now.
    """
    if settings is None or not settings.metrics_port:
        await asyncio.get_running_loop().create_future()
        return
    host, port = settings.metrics_host, settings.metrics_port
    app = web.Application()
    app.router.add_get(PATH, partial(_answer, look))
    runner = web.AppRunner(app, access_log=None, logger=http_log, shutdown_timeout=1)
    await runner.setup()
    turned_away = RatedLog(log, lines_max=1)
    try:
        assert runner.server is not None, "set up just now"
        with await _listener(host, port) as listening:
            log.info("metrics listening", extra=fields(host=host, port=port))
            await take_connections(
                listening,
                runner.server,
                most=CONNECTIONS_MAX,
                turned_away=lambda: turned_away.warning("connection for metrics closed: too many"),
            )
    finally:
        await runner.cleanup()


async def _answer(look: Callable[[], None], request: web.Request) -> web.Response:
    look()
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    # Some milliseconds of work, which should not hold up streams.
    body = await asyncio.to_thread(encode, registry)
    return web.Response(body=body, headers={"Content-Type": content_type})


async def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    has_told = False
    while True:
        try:
            listening = socket.create_server((host, port), family=family)
        except OSError as error:
            if not has_told:
                told = fields(host=host, port=port, reason=error.strerror)
                log.warning("metrics cannot listen; trying on", extra=told)
                has_told = True
            await asyncio.sleep(RETRY_S)
        else:
            listening.setblocking(False)
            return listening
