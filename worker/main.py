"""`python -m worker.main`: one worker, from its settings to an orderly end.

SIGTERM or SIGINT: see `worker.process`. Exit codes: 0 left in order, 1 it cannot work here (the
message says why), anything else a fault.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import aclosing

from infra.runtime.clock import Clock, SystemClock
from infra.runtime.identity import new_worker_id
from infra.runtime.lifecycle import stop_signals
from infra.runtime.logs import configure_logs, fields
from infra.runtime.settings import Settings, SettingsRefused, load_settings
from infra.store.open import Store, open_store
from infra.wire.errors import AgClusterError, StoreUnavailable
from worker.gateway_client import GatewayClient
from worker.isolation import choose_host
from worker.process import Surroundings, WorkerProcess

log = logging.getLogger(__name__)

STORE_PATIENCE_S = 30.0
"""At the start, Redis may still be starting too."""


async def work(settings: Settings) -> None:
    """Work until told to stop.

    Raises `SettingsRefused`, `NoIsolation` and `StoreUnavailable` when it cannot begin.
    """
    if settings.redis_url is None:
        raise SettingsRefused("AGCLUSTER_REDIS_URL is not set")
    clock = SystemClock()
    with stop_signals() as stop:
        async with (
            aclosing(open_store(settings, name="agcluster-worker")) as store,
            aclosing(await choose_host(settings)) as host,
            aclosing(GatewayClient(settings.gateway_socket)) as gateway,
        ):
            await _until_store_is_there(store, clock, stop)
            around = Surroundings(
                settings=settings, store=store, host=host, gateway=gateway, clock=clock
            )
            await WorkerProcess(new_worker_id(host.host), around).run(stop)


async def _until_store_is_there(store: Store, clock: Clock, stop: asyncio.Event) -> None:
    give_up_s = clock.monotonic() + STORE_PATIENCE_S
    while not stop.is_set():
        try:
            return await store.check()
        except StoreUnavailable as error:
            if clock.monotonic() > give_up_s:
                raise
            log.warning("waiting for Redis: %s", error)
        await clock.sleep(1.0)


def main() -> int:
    """The program."""
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        run(settings)
    except AgClusterError as error:
        print(f"agcluster worker: {error}", file=sys.stderr)
        return 1
    return 0


def run(settings: Settings) -> None:
    """Run on uvloop where there is one: it saves about a tenth of the time per delta."""
    try:
        import uvloop
    except ImportError:  # pragma: no cover - Windows, PyPy
        asyncio.run(work(settings))
        return
    log.debug("event loop", extra=fields(loop="uvloop"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(settings))


if __name__ == "__main__":
    sys.exit(main())
