"""`python -m api.main`: one API replica, from its settings to an orderly shutdown.

Shutdown: report not ready, give load balancers a moment to notice, accept no new connections, let
running answers continue for `drain_timeout_s`, end the remaining ones with a clean error, then
close the connections to Redis.
"""

from __future__ import annotations

import asyncio
import logging
import math
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager

import uvicorn

from api.app import create_app
from api.deps import ApiDeps
from api.http.connection import ConnectionBounds, bounded
from api.replica import running_replica, upstream_client
from infra.metrics.serve import show_metrics
from infra.runtime.clock import SystemClock
from infra.runtime.console import complain
from infra.runtime.lifecycle import stop_signals
from infra.runtime.logs import configure_logs, fields
from infra.runtime.memory import forbid_dumps, give_back_large_pieces
from infra.runtime.settings import Settings, SettingsRefused, load_settings
from infra.store.open import open_store
from infra.store.server.fitness import until_fit
from infra.wire.errors import StoreUnavailable

log = logging.getLogger(__name__)

CUT_S = 5.0
"""Seconds for answers that were told to end to send their error."""
LOOK_S = 0.5
"""Seconds between two checks of a leaving replica for idle connections."""
BACKLOG = 2048
OPEN_FILES = 65_536


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would cut streams in its own way."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises `SettingsRefused`, `StoreUnavailable` and `OSError` (the address is in use).
    """
    with stop_signals() as stop:
        async with aclosing(open_store(settings, name="agcluster-api")) as store:
            # Before anybody can connect, so that a load balancer does not consider us ready.
            await until_fit(store, stop, patience_s=settings.redis_patience_s)
            listener = listen(settings)
            async with (
                upstream_client() as upstream,
                running_replica(
                    settings, store=store, upstream=upstream, clock=SystemClock()
                ) as deps,
            ):
                await serve_until(stop, deps, listener)


async def serve_until(stop: asyncio.Event, deps: ApiDeps, listener: socket.socket) -> None:
    """Serve on the socket until `stop` is set and the drain is over."""
    server = _Server(server_config(deps))
    host, port = listener.getsockname()[:2]
    log.info("api listening", extra=fields(host=host, port=port))
    # uvicorn closes it at the end of a normal shutdown, but not of one during startup.
    with closing(listener):
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listener]))
            stopping = group.create_task(_stop(stop, server, serving, deps))
            showing = group.create_task(show_metrics(deps.settings))
            await serving
            stopping.cancel()
            showing.cancel()
    log.info("api ended")


async def _stop(
    stop: asyncio.Event, server: _Server, serving: asyncio.Task[None], deps: ApiDeps
) -> None:
    await stop.wait()
    grace_s = deps.settings.drain_timeout_s
    notice_s = min(deps.settings.drain_notice_s, grace_s / 2)
    deps.drain.begin()
    log.info("api draining", extra=fields(answers=deps.drain.open_count, grace_s=grace_s))
    await asyncio.wait({serving}, timeout=notice_s)
    deps.drain.close()
    server.should_exit = True
    cut_s = time.monotonic() + grace_s - notice_s
    while not serving.done() and (left_s := cut_s - time.monotonic()) > 0:
        # uvicorn tells its connections once. A connection that was accepted at that moment, or the
        # next request on it, would be served on and on, and keep us running.
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await asyncio.wait({serving}, timeout=min(LOOK_S, left_s))
    if not serving.done():
        log.warning("api cuts answers", extra=fields(answers=deps.drain.open_count))
        deps.drain.cut()


def server_config(deps: ApiDeps) -> uvicorn.Config:
    """The configuration of uvicorn."""
    proxies = list(deps.settings.trusted_proxies)
    return uvicorn.Config(
        create_app(deps),
        interface="asgi3",
        http=bounded(ConnectionBounds(connections_max=2 * deps.settings.requests_max)),
        # By default, it trusts this machine.
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(deps.settings.drain_timeout_s + CUT_S),
    )


def listen(settings: Settings) -> socket.socket:
    """The listening socket. Raises `OSError`.

    The kernel drops a connection whose peer accepts nothing for the send timeout. Otherwise closing
    a connection with unsent bytes would wait for that peer forever.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        timeout_ms = math.ceil((settings.send_timeout_s + CUT_S) * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, option, timeout_ms)
    return listener


def lift_open_files() -> None:
    """Raise the limit of open files: each connection is one, and the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop if available: a third less CPU per delta."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    """Run a replica. Exits with 2 if it cannot be set up."""
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        forbid_dumps()
        give_back_large_pieces()
        lift_open_files()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(settings))
    except (SettingsRefused, StoreUnavailable, OSError) as error:
        complain(f"agcluster api: {error}")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
