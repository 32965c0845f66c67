"""What a fleet of agents holds: `python -m tests.bench.fleet_memory`.

One deployment with Docker and the real agent. Memory before anybody came, with N conversations
warm, after they were idle and cleaned up, and when all have come back. The figure that counts is
the third row: what an idle conversation costs for the days it may be continued.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import openai
import redis

from tests.bench import report
from tests.bench.ending import end_in_order
from tests.bench.processes import memory_mb
from tests.bench.report import Report
from tests.bench.table import render
from tests.e2e.deployments import MODEL, Deployment, embedded, wait_until

SWEEP_SLACK_S = 30.0
FIRST = "tool bash echo kept-4711 > note.txt; head -c 2000 /dev/zero | tr '\\0' x"
SECOND = "tool read /workspace/note.txt"
_UNITS = {"B": 1 / 2**20, "KiB": 1 / 2**10, "MiB": 1.0, "GiB": 2.0**10}


@dataclass(frozen=True)
class Held:
    """Megabytes at one moment."""

    containers: int
    agents_mb: float
    programs_mb: float
    redis_mb: float
    sockets: int

    def row(self, when: str) -> list[str]:
        figures = [self.agents_mb, self.programs_mb]
        return [
            when,
            str(self.containers),
            *(f"{figure:.0f}" for figure in figures),
            f"{self.redis_mb:.2f}",
            str(self.sockets),
        ]


COLUMNS = [
    "moment",
    "containers",
    "agents MB",
    "programs MB (with Redis)",
    "of it Redis data MB",
    "socket folders",
]


def measure(deployment: Deployment) -> Held:
    """What the fleet holds now."""
    assert deployment.data_dir is not None
    containers = deployment.containers()
    with redis.Redis(unix_socket_path=str(deployment.data_dir / "redis/redis.sock")) as client:
        data_mb = client.info("memory")["used_memory"] / 2**20
    sockets = deployment.data_dir / "s"
    return Held(
        containers=len(containers),
        agents_mb=sum(map(_mb, _stats(containers))),
        programs_mb=sum(memory_mb(deployment.processes[0].pid).values()),
        redis_mb=data_mb,
        sockets=len(list(sockets.glob("[!.]*"))) if sockets.exists() else 0,
    )


def bench(agents: int, idle_s: float, out: Report) -> None:
    """Start, fill, wait for the reaper, come back, stop."""
    out.add(report.machine())
    with embedded("docker", AGCLUSTER_IDLE_TIMEOUT_S=str(idle_s)) as deployment:
        rows = [measure(deployment).row("before")]
        chats = [Chat(f"fleet-{uuid.uuid4()}") for _ in range(agents)]
        asyncio.run(_say(deployment, chats, FIRST, expect=None))
        warm = measure(deployment)
        if warm.containers < agents:
            raise SystemExit("agents went before they were measured: give a longer --idle-s")
        rows.append(warm.row(f"{agents} conversations warm"))
        wait_until("the idle clean-up", lambda: not deployment.containers(), idle_s + SWEEP_SLACK_S)
        rows.append(measure(deployment).row("after idle clean-up"))
        asyncio.run(_say(deployment, chats, SECOND, expect="kept-4711"))
        rows.append(measure(deployment).row("all have come back"))
    out.add(f"### Memory of a fleet ({agents} conversations, idle after {idle_s:g} s)")
    out.add(render(COLUMNS, rows))


class Chat:
    """A conversation and what its client sees of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[dict[str, str]] = []

    async def say(self, client: openai.AsyncOpenAI, text: str, expect: str | None) -> None:
        self.seen.append({"role": "user", "content": text})
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=self.seen,  # type: ignore[arg-type]
            extra_headers={"X-Conversation-ID": self.name},
        )
        said: str = answer.choices[0].message.content or ""
        if expect and expect not in said:
            raise SystemExit(f"a conversation came back without its files: {said[:200]}")
        self.seen.append({"role": "assistant", "content": said})


async def _say(
    deployment: Deployment, chats: Sequence[Chat], text: str, expect: str | None
) -> None:
    async with deployment.async_client() as client, asyncio.TaskGroup() as group:
        for chat in chats:
            group.create_task(chat.say(client, text, expect))


def _stats(containers: Sequence[str]) -> list[str]:
    """What Docker says each holds, page cache left out."""
    if not containers:
        return []
    done = subprocess.run(
        ["docker", "stats", "--no-stream", "--format", "json", *containers],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [json.loads(line)["MemUsage"] for line in done.stdout.splitlines()]


def _mb(usage: str) -> float:
    """Of `158.5MiB / 1GiB`, the first."""
    found = re.match(r"([\d.]+)([KMG]?i?B)", usage)
    assert found is not None, usage
    return float(found[1]) * _UNITS[found[2]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet_memory", description=__doc__)
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument("--idle-s", type=float, default=60.0)
    given = parser.parse_args()
    bench(given.agents, given.idle_s, Report())


if __name__ == "__main__":
    end_in_order()
    main()
