"""What more processes give: `python -m tests.bench.replicas`.

One, two and four API replicas with as many workers, each worker a host of its own; the client
spreads its conversations over the replicas. On a machine with fewer cores than processes this shows
what more processes cost, not what more machines give: read the CPU, and how busy the machine was.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping

import uvloop

from tests.bench import paced_streams, tiny_turns
from tests.bench.ending import end_in_order
from tests.bench.field import OURS, field_of
from tests.bench.section import Section

COUNTS = (1, 2, 4)
STREAMS = 200


async def measure(is_quick: bool) -> Section:
    """Starts a cluster for each number."""
    out = Section(
        f"More API and worker processes ({os.cpu_count()} cores)",
        [
            "of each",
            "tiny turns/s",
            "CPU ms/turn",
            f"deltas/s, {STREAMS} streams",
            "age p99 ms",
            "CPU us/delta",
        ],
    )
    for count in COUNTS[:2] if is_quick else COUNTS:
        with field_of(apis=count, workers=count) as field:
            turns = (await tiny_turns.measure(field, is_quick)).figures
            deltas = (await paced_streams.at(STREAMS, rounds=1)(field, is_quick)).figures
        _tell(out, count, turns, deltas)
    return out


def _tell(
    out: Section,
    count: int,
    turns: Mapping[str, Mapping[str, float]],
    deltas: Mapping[str, Mapping[str, float]],
) -> None:
    [streams] = {figure.partition("_")[0] for figure in deltas}
    found = {
        "turns_per_s": turns["turns_per_s"][OURS],
        "turn_cpu_ms": turns["turn_cpu_ms"][OURS],
        "deltas_per_s": deltas[f"{streams}_deltas_per_s"][OURS],
        "age_p99_ms": deltas[f"{streams}_age_p99_ms"][OURS],
        "delta_cpu_us": deltas[f"{streams}_delta_cpu_us"][OURS],
    }
    for figure, value in found.items():
        out.note(f"processes{count}_{figure}", OURS, value)
    out.rows.append([str(count), *(f"{value:.4g}" for value in found.values())])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    end_in_order()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(measure(given.quick)).markdown())
