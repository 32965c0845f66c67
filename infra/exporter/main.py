"""`python -m infra.exporter.main`: reads the cluster's figures from Redis, and shows them.

One per cluster is enough. It keeps nothing, and changes nothing in Redis. While Redis does not
answer, it shows `agcluster_cluster_up 0` and the last figures. Exit status 2 for invalid settings.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import aclosing

from infra.metrics import cluster as metrics
from infra.metrics.serve import show_metrics
from infra.runtime.clock import Clock, SystemClock
from infra.runtime.console import complain
from infra.runtime.lifecycle import stop_signals
from infra.runtime.logs import configure_logs
from infra.runtime.settings import Settings, SettingsRefused, load_settings
from infra.store.open import Store, open_store
from infra.store.overview import ClusterOverview
from infra.wire.errors import StoreUnavailable
from infra.wire.states import WorkerState

log = logging.getLogger(__name__)

READ_EVERY_S = 5.0


async def export(store: Store, clock: Clock, *, every_s: float = READ_EVERY_S) -> None:
    """Read the figures again and again, until cancelled."""
    has_complained = False
    while True:
        try:
            put(await store.overview.read())
            has_complained = False
        except StoreUnavailable as error:
            metrics.UP.set(0)
            if not has_complained:
                log.warning("the cluster is not seen: %s", error)
            has_complained = True
        await clock.sleep(every_s)


def put(seen: ClusterOverview) -> None:
    """Set the gauges to what was seen."""
    metrics.UP.set(1)
    metrics.TURNS_OPEN.set(seen.turns_open)
    metrics.TURNS_WAITING.set(seen.turns_waiting)
    metrics.OLDEST_WAITING.set(seen.oldest_waiting_s)
    metrics.TENANTS_WAITING.set(seen.tenants_waiting)
    metrics.SIDE_HINTS.set(seen.side_hints)
    metrics.IDLE.set(seen.idle)
    metrics.HOSTS.set(seen.hosts)
    metrics.REPLICAS.set(seen.replicas)
    metrics.FILE_STORES.set(seen.file_stores)
    for state in WorkerState:
        metrics.WORKERS.labels(state.value).set(seen.workers_by_state.get(state, 0))
    ready = [worker for worker in seen.workers if worker.state is WorkerState.READY]
    metrics.SLOTS.set(sum(worker.slots for worker in ready))
    metrics.SLOTS_USED.set(sum(worker.used for worker in ready))
    redis = seen.redis
    metrics.REDIS_USED.set(redis.used_bytes)
    metrics.REDIS_MAX.set(redis.max_bytes)
    metrics.REDIS_CLIENTS.set(redis.clients)
    metrics.REDIS_EVICTED.set(redis.evicted_keys)
    metrics.REDIS_REJECTED.set(redis.rejected_connections)
    metrics.REDIS_DURABLE.set(redis.last_write_ok)


async def _run(settings: Settings) -> None:
    with stop_signals() as stop:
        async with (
            aclosing(open_store(settings, name="agcluster-exporter")) as store,
            asyncio.TaskGroup() as group,
        ):
            loops = [
                group.create_task(show_metrics(settings)),
                group.create_task(export(store, SystemClock())),
            ]
            await stop.wait()
            for loop in loops:
                loop.cancel()


def main() -> int:
    """The program."""
    try:
        settings = load_settings()
        if not settings.metrics_port:
            raise SettingsRefused("AGCLUSTER_METRICS_PORT: the exporter needs a port")
        configure_logs(settings.log_level, settings.log_format)
        asyncio.run(_run(settings))
    except SettingsRefused as error:
        complain(f"agcluster exporter: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
