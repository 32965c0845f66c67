"""First words of conversations without a container: `python -m tests.bench.starts`.

With real agents in Docker and in bubblewrap, one conversation at a time: cold (no spare agents),
pooled (a spare agent waits) and resumed (the conversation was stopped as idle, then goes on); a
warm turn beside them. The phases of a cold start are read from the worker's log.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import uvloop

from tests.bench import real
from tests.bench.ending import end_in_order
from tests.bench.field import OURS
from tests.bench.not_here import NotHere
from tests.bench.real import real_agents
from tests.bench.section import Section
from tests.bench.stats import quantile

STARTS = 6
WARM_TURNS = 20
IDLE_S = 5
SPARE_WITHIN_S = 60.0
GONE_WITHIN_S = 60.0
ISOLATIONS = ("docker", "bubblewrap")


async def measure(is_quick: bool) -> Section:
    """Every kind of start in every isolation that this machine has."""
    out = Section(
        "Time to the first delta of a conversation without a container, real agents",
        ["start", "isolation", "p50 s", "fastest s", "slowest s"],
    )
    starts, warm_turns = (1, 2) if is_quick else (STARTS, WARM_TURNS)
    for isolation in ISOLATIONS:
        # A quick run sees each kind of start once.
        try:
            if not is_quick or isolation == "docker":
                await _cold_and_resumed(out, isolation, starts, warm_turns)
            if not is_quick or isolation == "bubblewrap":
                await _pooled(out, isolation, starts)
        except (NotHere, RuntimeError, TimeoutError) as reason:
            out.notes.append(f"*Not measured in {isolation}: {reason}*")
    return out


async def _cold_and_resumed(out: Section, isolation: str, starts: int, warm_turns: int) -> None:
    names = [f"cold-{n}" for n in range(starts)]
    settings = {"AGCLUSTER_IDLE_TIMEOUT_S": str(IDLE_S), **real.without_spares()}
    with real_agents(isolation, **settings) as clients:
        # The first one of a deployment also loads what all the others find in memory.
        await clients.first_delta_s("first")
        _tell(out, "cold", isolation, [await clients.first_delta_s(name) for name in names])
        _tell_timeline(out, isolation, clients.deployment.output())
        warm = [await clients.first_delta_s("first") for _ in range(warm_turns)]
        _tell(out, "warm", isolation, warm)
        await clients.until_none_is_warm(within_s=IDLE_S + GONE_WITHIN_S)
        resumed = [await clients.first_delta_s(name) for name in names]
        _tell(out, "resumed", isolation, resumed)


async def _pooled(out: Section, isolation: str, starts: int) -> None:
    if not real.has_setting("spares_max"):
        raise NotHere("this commit has no warm pool")
    spares = {"AGCLUSTER_SPARES_MIN": "1", "AGCLUSTER_SPARES_MAX": "1"}
    with real_agents(isolation, **spares) as clients:
        waited = []
        for n in range(starts + 1):
            await clients.until_logged("spare ready", n + 1, within_s=SPARE_WITHIN_S)
            waited.append(await clients.first_delta_s(f"pooled-{n}"))
        used = clients.deployment.output().count("spare claimed")
    _tell(out, "pooled", isolation, waited[1:])
    if used < starts:
        out.notes.append(
            f"*Only {used} of {starts + 1} new conversations in {isolation} got a spare.*"
        )


def _tell(out: Section, kind: str, isolation: str, waited_s: Sequence[float]) -> None:
    out.note(f"{kind}_{isolation}_s", OURS, quantile(waited_s, 0.5))
    figures = (quantile(waited_s, 0.5), min(waited_s), max(waited_s))
    out.rows.append([kind, isolation, *(f"{value:.2f}" for value in figures)])


def _tell_timeline(out: Section, isolation: str, output: str) -> None:
    try:
        from tests.bench import start_times
    except ImportError:  # An older commit does not log its starts.
        return
    for phase, at_ms in start_times.medians(start_times.read(output)).items():
        out.note(f"timeline_{isolation}_{phase}_ms", OURS, at_ms)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    end_in_order()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(measure(given.quick)).markdown())
