"""The cluster without containers: real Redis, API and worker processes, stand-in agents.

What this adds to the direct stream is our own: the agent's CLI, which costs more than all of it, is
not on the path.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import started
from tests.bench.targets import NotHere
from tests.e2e.deployments import MODEL, free_port, wait_until
from tests.parts import redis_server


@dataclass(frozen=True)
class StandIn:
    """A running cluster."""

    base_url: str
    redis_url: str
    pids: Sequence[int]
    """API, worker and Redis; the agents' process is not among them."""


@contextmanager
def stand_in(folder: Path, model_url: str) -> Iterator[StandIn]:
    """Started in order and stopped in order. Raises `NotHere` without a redis-server."""
    server = redis_server()
    if server is None:
        raise NotHere("no redis-server")
    redis_port, api_port = free_port(), free_port()
    redis_url = f"redis://127.0.0.1:{redis_port}"
    environ = {
        "AGCLUSTER_REDIS_URL": redis_url,
        "AGCLUSTER_SECRET": "a secret for the benchmark, long enough",
        "AGCLUSTER_ANTHROPIC_BASE_URL": model_url,
        "AGCLUSTER_DATA_DIR": str(folder / "d"),
        "AGCLUSTER_PORT": str(api_port),
        "AGCLUSTER_MODELS": MODEL,
        "AGCLUSTER_SLOTS": "600",
        # One key asks for everything.
        "AGCLUSTER_TENANT_TURNS_MAX": "0",
        "AGCLUSTER_TENANT_QUEUE_MAX": "0",
        "AGCLUSTER_TENANT_REQUESTS_PER_MIN": "0",
        "AGCLUSTER_TENANT_BYTES_MAX": "0",
        "AGCLUSTER_RETIRE_ON_EXIT": "true",
        "AGCLUSTER_DRAIN_TIMEOUT_S": "2",
        "AGCLUSTER_LOG_LEVEL": "WARNING",
    }
    with ExitStack() as stack:
        redis = stack.enter_context(
            started(
                [server, "--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""],
                log=folder / "redis.log",
            )
        )
        farm = folder / "farm.sock"
        stack.enter_context(
            started(
                [sys.executable, "-m", "tests.bench.agent_farm", str(farm)], log=folder / "farm.log"
            )
        )
        wait_until("the agents' process", farm.exists, 30)
        worker = stack.enter_context(
            started(
                [sys.executable, "-m", "tests.bench.stand_in_worker", str(farm)],
                log=folder / "worker.log",
                environ=environ,
            )
        )
        base_url = f"http://127.0.0.1:{api_port}"
        api = stack.enter_context(
            started(
                [sys.executable, "-m", "api.main"],
                log=folder / "api.log",
                environ=environ,
                ready_url=f"{base_url}/health/ready",
            )
        )
        yield StandIn(base_url, redis_url, [redis.pid, worker.pid, api.pid])
