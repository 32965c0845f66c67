"""`python -m worker.main`: one worker, from its settings to an orderly shutdown.

SIGTERM or SIGINT: see `worker.process`. Exit codes: 0 normal exit, 1 it cannot work here (the
message says why), anything else a bug.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import aclosing

from infra.files.open import open_file_store
from infra.runtime.clock import SystemClock
from infra.runtime.console import complain
from infra.runtime.identity import new_worker_id
from infra.runtime.lifecycle import stop_signals
from infra.runtime.logs import configure_logs, fields
from infra.runtime.settings import Settings, load_settings
from infra.store.open import open_store
from infra.store.server.fitness import until_fit
from infra.wire.errors import AgClusterError
from worker.gateway_client.client import GatewayClient
from worker.hosts.isolation import choose_host
from worker.process import Surroundings, WorkerProcess

log = logging.getLogger(__name__)


async def work(settings: Settings) -> None:
    """Work until told to stop.

    Raises `SettingsRefused`, `NoIsolation` and `StoreUnavailable` if it cannot start.
    """
    clock = SystemClock()
    with stop_signals() as stop:
        async with aclosing(open_store(settings, name="agcluster-worker")) as store:
            await until_fit(store, stop, patience_s=settings.redis_patience_s)
            async with (
                aclosing(await choose_host(settings)) as host,
                aclosing(GatewayClient(settings.gateway_socket)) as gateway,
            ):
                around = Surroundings(
                    settings=settings,
                    store=store,
                    host=host,
                    gateway=gateway,
                    clock=clock,
                    files=open_file_store(settings, data_dir=settings.data_dir),
                )
                await WorkerProcess(new_worker_id(host.host), around).run(stop)


def main() -> int:
    """The program."""
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        run(settings)
    except AgClusterError as error:
        complain(f"agcluster worker: {error}")
        return 1
    return 0


def run(settings: Settings) -> None:
    """Run on uvloop if available: it saves about a tenth of the time per delta."""
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
