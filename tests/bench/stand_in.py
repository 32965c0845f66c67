"""The cluster without containers: real Redis, API and worker processes, stand-in agents.

What this adds to the direct stream is our own: the agent's CLI, which costs more than all of it, is
not on the path. Each worker is a host of its own, with its own process of agents; a client spreads
its conversations over the API replicas by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cpu import Roles
from tests.bench.not_here import NotHere
from tests.bench.processes import started
from tests.e2e.deployments import MODEL, free_port, wait_until
from tests.parts import redis_server

SLOTS = 1200
PROFILES = "AGC_BENCH_PROFILES"
"""Where the programs' samples go; without it nobody samples (`tests.bench.sampled`)."""


@dataclass(frozen=True)
class StandIn:
    """A running cluster."""

    base_urls: Sequence[str]
    """One for each API replica."""
    redis_url: str
    roles: Roles

    @property
    def base_url(self) -> str:
        return self.base_urls[0]

    @property
    def pids(self) -> Sequence[int]:
        """API, worker and Redis; the agents' processes are not among them."""
        return [pid for role in ("redis", "worker", "api") for pid in self.roles[role]]


@contextmanager
def stand_in(folder: Path, model_url: str, *, apis: int = 1, workers: int = 1) -> Iterator[StandIn]:
    """Started in order and stopped in order. Raises `NotHere` without a redis-server."""
    server = redis_server()
    if server is None:
        raise NotHere("no redis-server")
    redis_port = free_port()
    redis_url = f"redis://127.0.0.1:{redis_port}"
    environ = _environ(redis_url, model_url)
    with ExitStack() as stack:
        redis = stack.enter_context(
            started(
                [server, "--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""],
                log=folder / "redis.log",
            )
        )
        agents, working = [], []
        for n in range(workers):
            own = folder / f"host{n}"
            own.mkdir()
            farm, worker = _host(stack, own, environ, name=f"host{n}")
            agents.append(farm)
            working.append(worker)
        replicas = [_api(stack, folder, environ, n) for n in range(apis)]
        yield StandIn(
            [url for url, _ in replicas],
            redis_url,
            {
                "api": [pid for _, pid in replicas],
                "worker": working,
                "redis": [redis.pid],
                "agents": agents,
            },
        )


def _environ(redis_url: str, model_url: str) -> Mapping[str, str]:
    return {
        "AGCLUSTER_REDIS_URL": redis_url,
        "AGCLUSTER_SECRET": "a secret for the benchmark that is long enough",
        "AGCLUSTER_ANTHROPIC_BASE_URL": model_url,
        "AGCLUSTER_MODELS": MODEL,
        "AGCLUSTER_SLOTS": str(SLOTS),
        "AGCLUSTER_SPARES_MAX": "0",
        # One key asks for everything.
        "AGCLUSTER_TENANT_TURNS_MAX": "0",
        "AGCLUSTER_TENANT_QUEUE_MAX": "0",
        "AGCLUSTER_TENANT_REQUESTS_PER_MIN": "0",
        "AGCLUSTER_TENANT_BYTES_MAX": "0",
        "AGCLUSTER_RETIRE_ON_EXIT": "true",
        "AGCLUSTER_DRAIN_TIMEOUT_S": "2",
        "AGCLUSTER_LOG_LEVEL": "WARNING",
    }


def _host(
    stack: ExitStack, folder: Path, environ: Mapping[str, str], *, name: str
) -> tuple[int, int]:
    """The agents' process and the worker of one host."""
    socket = folder / "farm.sock"
    farm = stack.enter_context(
        started(
            [sys.executable, "-m", "tests.bench.agent_farm", str(socket)], log=folder / "farm.log"
        )
    )
    wait_until("the agents' process", socket.exists, 30)
    worker = stack.enter_context(
        started(
            _program("tests.bench.stand_in_worker", str(socket)),
            log=folder / "worker.log",
            environ={
                **environ,
                "AGCLUSTER_HOST_ID": name,
                "AGCLUSTER_DATA_DIR": str(folder / "d"),
            },
        )
    )
    return farm.pid, worker.pid


def _api(stack: ExitStack, folder: Path, environ: Mapping[str, str], n: int) -> tuple[str, int]:
    """One replica's address and process."""
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    api = stack.enter_context(
        started(
            _program("api.main"),
            log=folder / f"api{n}.log",
            environ={
                **environ,
                "AGCLUSTER_PORT": str(port),
                "AGCLUSTER_DATA_DIR": str(folder / "api"),
            },
            ready_url=f"{base_url}/health/ready",
        )
    )
    return base_url, api.pid


def _program(module: str, *arguments: str) -> list[str]:
    """A program of ours, sampled where somebody wants its profile."""
    sampler = ["tests.bench.sampled"] if os.environ.get(PROFILES) else []
    return [sys.executable, "-m", *sampler, module, *arguments]
