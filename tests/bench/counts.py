"""What Redis is asked, in counts: `python -m tests.bench.counts`.

Counts do not depend on the machine, so the test suite holds them (`LIMITS`); times it never does.
One turn at a time, then one stream, then a few, on a Redis that nobody else uses.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.bench import redis_cost
from tests.bench.field import AT_ONCE, OURS, Field
from tests.bench.section import Section, run_alone

TURNS = 30
DELTAS = 100
STREAMS = 20
EVERY_MS = 20


@dataclass(frozen=True)
class Limit:
    """How often something may happen."""

    figure: str
    what: str
    wanted: float
    """The aim."""
    limit: float
    """What the tests hold today. Lower it when a change makes it possible, never raise it."""


LIMITS = (
    Limit("scripts_per_turn", "scripts of a tiny turn", 4, 5.5),
    Limit("commands_per_turn", "commands of a tiny turn", 60, 70),
    Limit("one_requests_per_delta", "requests for a delta of one stream", 0.3, 1.3),
    Limit("few_requests_per_delta", "requests for a delta of 20 streams", 0.25, 0.6),
    Limit("few_scripts_per_delta", "scripts for a delta of 20 streams", 0.09, 0.12),
    Limit("few_xadd_per_delta", "XADD for a delta of 20 streams", 0.09, 0.15),
)
"""Turns included: a stream's deltas bear the commands of its turn, so 100 deltas a turn. What the
programs ask of Redis beside the turns is in the figures too, and is more on a slow machine."""


async def measure(field: Field, is_quick: bool) -> Section:
    """Everything that has a limit, and what it may be."""
    out = Section("What Redis is asked", ["", "count", "wanted", "the tests' limit"])
    await _turns(field, out)
    await _deltas(field, out, 1, "one")
    await _deltas(field, out, STREAMS, "few")
    for limit in LIMITS:
        value = out.figures[limit.figure][OURS]
        out.rows.append([limit.what, f"{value:.3f}", f"{limit.wanted:g}", f"{limit.limit:g}"])
    return out


async def _turns(field: Field, out: Section) -> None:
    counted = redis_cost.Counted(field.cluster.redis_url)
    for _ in range(3):
        await field.ours.ask(AT_ONCE, is_streamed=False)
    await counted.begin()
    for _ in range(TURNS):
        await field.ours.ask(AT_ONCE, is_streamed=False)
    await counted.end()
    out.note("scripts_per_turn", OURS, redis_cost.scripts(counted.ran) / TURNS)
    out.note("commands_per_turn", OURS, sum(counted.ran.values()) / TURNS)
    out.notes.append(f"A tiny turn: {redis_cost.said(counted.ran, TURNS)}.")


async def _deltas(field: Field, out: Section, streams: int, name: str) -> None:
    counted = redis_cost.Counted(field.cluster.redis_url)
    await field.ours.warm_up(streams)
    await counted.begin()
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(field.ours.ask(f"stream {DELTAS} every {EVERY_MS} ms", lane=lane))
            for lane in range(streams)
        ]
    await counted.end()
    deltas = sum(len(task.result().ages_s(DELTAS)) for task in asked)
    out.note(f"{name}_requests_per_delta", OURS, redis_cost.asked(counted.ran) / deltas)
    out.note(f"{name}_scripts_per_delta", OURS, redis_cost.scripts(counted.ran) / deltas)
    out.note(f"{name}_xadd_per_delta", OURS, counted.ran.get("xadd", 0) / deltas)
    out.notes.append(f"A delta, {streams} streams: {redis_cost.said(counted.ran, deltas)}.")


if __name__ == "__main__":
    run_alone(measure, about=__doc__)
