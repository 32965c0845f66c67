"""What a fleet of agents holds: `python -m tests.bench.fleet_memory`.

One deployment with the real agent. Memory before anybody came, with N conversations warm,
hibernated because the host said that it had little memory left, and when all have come back. The
figure that counts is the third row: what a conversation costs that is neither used nor forgotten.
Then how long a hibernated one's next answer takes, one at a time, beside a warm one's and the
first one of a new conversation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import openai
import redis

from tests.bench import report
from tests.bench.processes import memory_mb
from tests.bench.report import Report
from tests.bench.table import render
from tests.e2e.deployments import MODEL, Deployment, embedded, wait_until

HIBERNATED_WITHIN_S = 90.0
LOOKED_AGAIN_S = 1.5
"""The workers have seen that there is memory again."""
PLENTY_MB = 64_000
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


def bench(agents: int, resumes: int, out: Report) -> None:
    """Start, fill, take the memory away, come back, stop."""
    out.add(report.machine())
    with tempfile.TemporaryDirectory(prefix="agc-") as folder:
        meminfo = Path(folder) / "meminfo"
        _say_available(meminfo, PLENTY_MB)
        settings = {"AGCLUSTER_MEMINFO_FILE": str(meminfo), "AGCLUSTER_IDLE_TIMEOUT_S": "3600"}
        with embedded("docker", **settings) as deployment:
            rows, chats = _fill(deployment, meminfo, agents)
            times = [_resumed(deployment, meminfo, chats[0]) for _ in range(resumes)]
    out.add(f"### Memory of a fleet ({agents} conversations)")
    out.add(render(COLUMNS, rows))
    figures = [
        [kind, *_spread(took)]
        for kind, took in zip(("hibernated", "warm", "new"), zip(*times, strict=True), strict=True)
    ]
    out.add(f"### The next answer of one conversation, {resumes} times, alternating (s)")
    out.add(render(["the conversation was", "median", "min"], figures))


def _fill(
    deployment: Deployment, meminfo: Path, agents: int
) -> tuple[list[list[str]], Sequence[Chat]]:
    rows = [measure(deployment).row("before")]
    chats = [Chat(f"fleet-{uuid.uuid4()}") for _ in range(agents)]
    asyncio.run(_say(deployment, chats, FIRST, expect=None))
    rows.append(measure(deployment).row(f"{agents} conversations warm"))
    _hibernate(deployment, meminfo)
    rows.append(measure(deployment).row("all hibernated"))
    asyncio.run(_say(deployment, chats, SECOND, expect="kept-4711"))
    rows.append(measure(deployment).row("all have come back"))
    return rows, chats


def _resumed(deployment: Deployment, meminfo: Path, chat: Chat) -> tuple[float, float, float]:
    """Seconds of one answer after a hibernation, of one after that, and of a new conversation's."""
    _hibernate(deployment, meminfo)
    hibernated_s, warm_s = (_answered_s(deployment, chat) for _ in range(2))
    return hibernated_s, warm_s, _answered_s(deployment, Chat(f"fleet-{uuid.uuid4()}"))


def _answered_s(deployment: Deployment, chat: Chat) -> float:
    began_s = time.perf_counter()
    asyncio.run(_say(deployment, [chat], "hello", expect=None))
    return time.perf_counter() - began_s


def _hibernate(deployment: Deployment, meminfo: Path) -> None:
    """Let the host have little memory until no container is left."""
    _say_available(meminfo, 1)
    wait_until("the hibernation", lambda: not deployment.containers(), HIBERNATED_WITHIN_S)
    _say_available(meminfo, PLENTY_MB)
    time.sleep(LOOKED_AGAIN_S)


def _say_available(meminfo: Path, available_mb: int) -> None:
    new = meminfo.with_suffix(".new")
    new.write_text(f"MemAvailable: {available_mb * 1024} kB\n")
    new.replace(meminfo)


def _spread(times_s: Sequence[float]) -> list[str]:
    return [f"{statistics.median(times_s):.2f}", f"{min(times_s):.2f}"]


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
    parser.add_argument("--resumes", type=int, default=5)
    given = parser.parse_args()
    bench(given.agents, given.resumes, Report())


if __name__ == "__main__":
    main()
