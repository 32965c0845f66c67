"""A real worker process that kills itself as soon as it is to start a container.

    python -m tests.fakes.deadly_worker REDIS_URL KEY_PREFIX DATA_DIR

Each start is noted in `DATA_DIR/starts` before it dies of it, as `kill -9` does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path

from infra.runtime.clock import SystemClock
from infra.runtime.identity import new_worker_id
from infra.runtime.settings import load_settings
from infra.store.open import open_store
from tests.fakes.memory_gateway import MemoryGateway
from tests.fakes.memory_host import MemoryHost, MemoryMachine
from tests.fakes.worker_stage import QUICK
from worker.hosts.host import Container, ContainerSpec
from worker.process import Surroundings, WorkerProcess


class DeadlyHost(MemoryHost):
    """Anybody who starts a container on it is dead."""

    def __init__(self, machine: MemoryMachine, starts: Path) -> None:
        super().__init__(machine)
        self._starts = starts

    async def start(self, spec: ContainerSpec) -> Container:
        with self._starts.open("a") as file:
            file.write(f"{spec.conversation}\n")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


async def main(redis_url: str, prefix: str, data_dir: Path) -> None:
    """Until it is killed, by itself or by somebody else."""
    settings = load_settings(
        {
            "AGCLUSTER_REDIS_URL": redis_url,
            "AGCLUSTER_REDIS_PREFIX": prefix,
            "AGCLUSTER_DATA_DIR": str(data_dir),
            "AGCLUSTER_SLOTS": "20",
            # Starting a spare would kill it too.
            "AGCLUSTER_SPARES_MAX": "0",
        }
    )
    async with (
        MemoryMachine() as machine,
        aclosing(open_store(settings, name="deadly-worker")) as store,
    ):
        host = DeadlyHost(machine, data_dir / "starts")
        around = Surroundings(
            settings, store, host, MemoryGateway(), SystemClock(), QUICK, renew_every_s=0.5
        )
        await WorkerProcess(new_worker_id(host.host), around).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
