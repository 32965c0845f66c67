"""The run: `python -m tests.bench.first_delta` (or `make bench`).

Prints the time to the first delta and the age of each delta on arrival, for every target this
machine can start and side by side in one run, then what Redis had to do for it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop
from redis.asyncio import Redis

from infra.store.server.connection import connect
from tests.bench import border_cost, redis_cost, report, runs, streams, targets
from tests.bench.not_here import NotHere
from tests.bench.report import Report
from tests.bench.stand_in import StandIn, stand_in
from tests.bench.stats import spread
from tests.bench.table import ms, render
from tests.bench.targets import Target
from tests.e2e.deployments import scripted_model

STAND_IN = "AgCluster, stand-in agent"
EVERY_TARGET = ("stand-in", "litellm", "sdk", "docker")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int
    new_rounds: int
    paced_rounds: int
    deltas: int
    every_ms: float
    streams: tuple[int, ...]
    placements: int
    idle_s: float


FULL = Sizes(60, 8, 3, 100, 20, (1, 4, 50, 200), 200, 15)
QUICK = Sizes(5, 2, 1, 20, 20, (1, 10), 20, 3)


@dataclass
class Field:
    """Everything that was started for a run."""

    targets: list[Target] = field(default_factory=list)
    cluster: StandIn | None = None
    idle: redis_cost.Calls = field(default_factory=dict)
    """What ran in Redis before anybody had asked for anything."""


async def bench(sizes: Sizes, names: set[str], litellm: str | None, out: Report) -> None:
    """Start what can be started, measure, stop."""
    out.add(report.machine())
    out.add("### What the worker's look at an event costs")
    out.add(border_cost.table())
    async with AsyncExitStack() as stack:
        started = await _start(stack, names, litellm, out)
        if started.cluster:
            async with _two_clients(started.cluster.redis_url) as (redis, _):
                started.idle = await redis_cost.during(redis, sizes.idle_s)
        await runs.warm_up(started.targets, max(sizes.streams))
        await _first_deltas(started.targets, sizes, out)
        for count in sizes.streams:
            await _paced(started.targets, count, sizes, out)
        if started.cluster:
            await _redis(started, sizes, out)


async def _start(stack: AsyncExitStack, names: set[str], litellm: str | None, out: Report) -> Field:
    session = await stack.enter_async_context(streams.client_session())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agcb-")))
    model_url, model = stack.enter_context(scripted_model())
    started = Field([targets.direct(session, model_url, model.pid)])

    def start_stand_in() -> Target:
        started.cluster = stack.enter_context(stand_in(folder, model_url))
        return _stand_in_target(session, started.cluster)

    starters: dict[str, Callable[[], Target]] = {
        "stand-in": start_stand_in,
        "litellm": lambda: stack.enter_context(
            targets.litellm(session, model_url, litellm, folder)
        ),
        "docker": lambda: stack.enter_context(targets.with_docker(session, model_url)),
    }
    for name in EVERY_TARGET:
        if name not in names:
            continue
        try:
            if name == "sdk":
                started.targets.append(await stack.enter_async_context(targets.sdk(folder)))
            else:
                started.targets.append(await asyncio.to_thread(starters[name]))
        except (NotHere, RuntimeError, TimeoutError) as reason:
            out.add(f"*Not measured: {name}. {reason}*")
    return started


def _stand_in_target(session: aiohttp.ClientSession, cluster: StandIn) -> Target:
    return targets.cluster(
        STAND_IN,
        session,
        cluster.base_url,
        pids=cluster.pids,
        lanes_max=500,
        paced=targets.PACED_STAND_IN,
    )


async def _first_deltas(all_targets: list[Target], sizes: Sizes, out: Report) -> None:
    measured = await runs.first_deltas(all_targets, sizes.rounds)
    out.add(f"### Time to the first delta, one stream at a time ({sizes.rounds} answers each)")
    out.add(report.compared(measured, lambda one: one.first_delta_s))
    if ours := [target for target in all_targets if target.is_ours]:
        fresh = await runs.new_conversations(ours, sizes.new_rounds)
        out.add(
            f"### Time to the first delta of a new conversation ({sizes.new_rounds} conversations)"
        )
        out.add("Its container, or its stand-in, starts first.")
        out.add(report.alone(fresh, lambda one: one.first_delta_s))


async def _paced(all_targets: list[Target], count: int, sizes: Sizes, out: Report) -> None:
    able = [target for target in all_targets if target.lanes_max >= count]
    measured = await runs.paced(
        able,
        streams=count,
        deltas=sizes.deltas,
        every_ms=sizes.every_ms,
        rounds=sizes.paced_rounds,
    )
    rate = count * 1000 / sizes.every_ms
    out.add(f"### Age of a delta on arrival, {count} streams at once ({rate:.0f} deltas/s)")
    out.add(report.paced(measured))


async def _redis(started: Field, sizes: Sizes, out: Report) -> None:
    """Counted with nobody else on this Redis: the stand-in cluster has its own."""
    cluster = started.cluster
    assert cluster is not None
    ours = next(target for target in started.targets if target.name == STAND_IN)
    async with _two_clients(cluster.redis_url) as (redis, waiting):
        rows = []
        for count in sizes.streams:
            before = await redis_cost.calls(redis)
            await runs.paced(
                [ours], streams=count, deltas=sizes.deltas, every_ms=sizes.every_ms, rounds=1
            )
            ran = redis_cost.difference(before, await redis_cost.calls(redis))
            rows.append(
                [f"per delta, {count} streams", *report.commands(ran, count * sizes.deltas)]
            )
        warm = await redis_cost.during(redis, sizes.idle_s)
        held = min(max(sizes.streams), ours.lanes_max)
        what = f"per second, idle with {held} warm conversations"
        rows += [
            ["per second, one idle worker and API", *report.commands(started.idle, sizes.idle_s)],
            [what, *report.commands(warm, sizes.idle_s)],
        ]
        placed = spread(await redis_cost.placements(redis, waiting, sizes.placements))
    out.add(f"### What Redis is asked ({sizes.deltas} deltas a turn)")
    out.add("A script or a MULTI is one request; the commands run are those inside them too.")
    out.add(render(["", "requests", "commands run", "most frequent commands"], rows))
    out.add(f"From a turn's hint to its claim: p50 {ms(placed.p50)} ms, p99 {ms(placed.p99)} ms.")


@asynccontextmanager
async def _two_clients(url: str) -> AsyncIterator[tuple[Redis, Redis]]:
    async with (
        aclosing(connect(url, timeout_s=5, name="bench")) as one,
        aclosing(connect(url, timeout_s=5, name="bench-worker")) as other,
    ):
        yield one, other


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few samples, to see that it works")
    parser.add_argument(
        "--only", default=",".join(EVERY_TARGET), help=f"which of {', '.join(EVERY_TARGET)}"
    )
    parser.add_argument("--litellm", help="LiteLLM's program")
    parser.add_argument(
        "--install-litellm", type=Path, metavar="FOLDER", help="make an environment with it there"
    )
    parser.add_argument("--write", type=Path, help="put the result between a document's markers")
    given = parser.parse_args()
    out = Report()
    program = targets.find_litellm(given.litellm, given.install_litellm)
    names = set(given.only.split(","))
    # The client shares the machine with what it measures, so it has to be cheap.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bench(QUICK if given.quick else FULL, names, program, out))
    if given.write:
        out.write(given.write)


if __name__ == "__main__":
    main()
