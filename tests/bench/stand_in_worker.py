"""A real worker process whose agents are stand-ins: `python -m tests.bench.stand_in_worker FARM`.

Differs from `worker.main` in its container host and its gateway only.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

import uvloop

from infra.runtime.clock import SystemClock
from infra.runtime.identity import new_worker_id
from infra.runtime.lifecycle import stop_signals
from infra.runtime.logs import configure_logs
from infra.runtime.settings import load_settings
from infra.store.open import open_store
from tests.bench.farm_host import farm_host
from tests.fakes.memory_gateway import MemoryGateway
from worker.process import Surroundings, WorkerProcess


async def main(farm: str) -> None:
    """Until SIGTERM. `farm` is the socket of the agents' process."""
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    with stop_signals() as stop:
        async with (
            aclosing(open_store(settings, name="bench-worker")) as store,
            farm_host(settings.host_name, farm) as host,
        ):
            around = Surroundings(
                settings,
                store,
                host,
                MemoryGateway(),
                SystemClock(),
                # The stand-in agents take next to none.
                available_memory_mb=lambda: None,
            )
            await WorkerProcess(new_worker_id(settings.host_name), around).run(stop)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
