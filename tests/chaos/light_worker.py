"""A real worker process on a light host: `python -m tests.chaos.light_worker FARM`.

Differs from `worker.main` in its container host and its gateway only; every deadline is the
product's own.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

from infra.runtime.clock import SystemClock
from infra.runtime.identity import new_worker_id
from infra.runtime.lifecycle import stop_signals
from infra.runtime.logs import configure_logs
from infra.runtime.settings import load_settings
from infra.store.open import open_store
from tests.chaos.farm_host import FarmHost
from tests.fakes.memory_gateway import MemoryGateway
from worker.process import Surroundings, WorkerProcess


async def main(farm: str) -> None:
    """Until SIGTERM."""
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    with stop_signals() as stop:
        async with (
            aclosing(open_store(settings, name="chaos-worker")) as store,
            aclosing(FarmHost(settings.host_name, farm)) as host,
        ):
            around = Surroundings(settings, store, host, MemoryGateway(), SystemClock())
            await WorkerProcess(new_worker_id(host.host), around).run(stop)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
