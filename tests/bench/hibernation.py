"""What a hibernated conversation holds: `python -m tests.bench.hibernation`.

Real agents in Docker. The worker is told that its host has little memory left (it reads a file of
ours for that), so it stops the idle ones. What is left of a conversation then is its record and its
transcript in Redis, and what our programs keep of it; files are on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import uvloop

from tests.bench import real
from tests.bench.ending import end_in_order
from tests.bench.field import OURS
from tests.bench.fleet_memory import measure as held_by
from tests.bench.not_here import NotHere
from tests.bench.real import Clients, real_agents
from tests.bench.section import Section
from tests.e2e.deployments import wait_until

CHATS = 6
PLENTY_MB, LITTLE_MB = 32_000, 64
HIBERNATED_WITHIN_S = 90.0
GONE_WITHIN_S = 30.0


async def measure(is_quick: bool) -> Section:
    """Memory of warm and of hibernated conversations."""
    out = Section("Memory of a hibernated conversation, real agents in Docker")
    try:
        await _measured(out, 1 if is_quick else CHATS)
    except (NotHere, RuntimeError, TimeoutError) as reason:
        out.notes.append(f"*Not measured: {reason}*")
    return out


async def _measured(out: Section, chats: int) -> None:
    if not real.has_setting("meminfo_file"):
        raise NotHere("this commit does not hibernate")
    with tempfile.TemporaryDirectory(prefix="agcb-") as folder:
        memory = Path(folder) / "meminfo"
        _say_available(memory, PLENTY_MB)
        settings = {"AGCLUSTER_MEMINFO_FILE": str(memory), "AGCLUSTER_IDLE_TIMEOUT_S": "600"}
        with real_agents("docker", **settings, **real.without_spares()) as clients:
            # What our programs take once, they do not take for a conversation.
            await _come_and_go(clients, memory, ["first"])
            before = held_by(clients.deployment)
            warm_mb = await _come_and_go(clients, memory, [f"chat-{n}" for n in range(chats)])
            after = held_by(clients.deployment)
    each_mb = max(0.0, after.programs_mb - before.programs_mb) / chats
    redis_mb = (after.redis_mb - before.redis_mb) / chats
    out.note("hibernated_mb", OURS, each_mb)
    out.columns = ["", "MB a conversation"]
    out.rows = [
        ["warm: its container", f"{warm_mb / chats:.0f}"],
        ["hibernated: all our programs, Redis included", f"{each_mb:.2f}"],
        ["of it Redis' data", f"{redis_mb:.3f}"],
    ]


async def _come_and_go(clients: Clients, memory: Path, names: list[str]) -> float:
    """What the containers of these held while they were warm, in MB."""
    _say_available(memory, PLENTY_MB)
    for name in names:
        await clients.first_delta_s(name)
    warm_mb = held_by(clients.deployment).agents_mb
    _say_available(memory, LITTLE_MB)
    await clients.until_none_is_warm(within_s=HIBERNATED_WITHIN_S)
    gone = clients.deployment.containers
    await asyncio.to_thread(wait_until, "the containers' end", lambda: not gone(), GONE_WITHIN_S)
    return warm_mb


def _say_available(memory: Path, mb: int) -> None:
    written = memory.with_suffix(".new")
    written.write_text(f"MemTotal: {PLENTY_MB * 1024} kB\nMemAvailable: {mb * 1024} kB\n")
    written.replace(memory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    end_in_order()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(measure(given.quick)).markdown())
