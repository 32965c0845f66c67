"""Tiny turns: `python -m tests.bench.tiny_turns`.

Answers of one word, not streamed, over 16 connections that each ask again at once. Printed: turns a
second, CPU of each program for a turn, and what a turn asks of Redis (the scripts and all commands
that ran, those of scripts included).
"""

from __future__ import annotations

import asyncio
import time

from tests.bench import redis_cost
from tests.bench.cpu import CLIENT, Spent, with_client
from tests.bench.field import AT_ONCE, OURS, TITLES, Field, Target
from tests.bench.section import Section, by_role, run_alone
from tests.bench.stats import spread
from tests.bench.table import ms

CONNECTIONS = 16
ROUNDS = 3


async def measure(field: Field, is_quick: bool) -> Section:
    """Targets take turns; each has some seconds a round."""
    out = Section(
        f"Tiny turns, {CONNECTIONS} connections",
        ["target", "turns/s", "p50 ms", "p99 ms", "CPU ms/turn", "of it", "client ms/turn"],
    )
    seconds, rounds = (0.5, 1) if is_quick else (2.0, ROUNDS)
    counted = redis_cost.Counted(field.cluster.redis_url)
    runs = {target.name: Run(target) for target in field.targets}
    for target in field.targets:
        await target.warm_up(CONNECTIONS)
    for _ in range(rounds):
        for target in field.targets:
            if target.name == OURS:
                await counted.begin()
            await runs[target.name].go(seconds)
            if target.name == OURS:
                await counted.end()
    for run in runs.values():
        run.tell(out)
    turns = len(runs[OURS].took_s)
    out.note("turn_scripts", OURS, redis_cost.scripts(counted.ran) / turns)
    out.note("turn_commands", OURS, sum(counted.ran.values()) / turns)
    out.notes.append(f"Redis, for a turn of ours: {redis_cost.said(counted.ran, turns)}.")
    return out


class Run:
    """One target's turns."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._spent = Spent(with_client(target.roles))
        self._lasted_s = 0.0
        self.took_s: list[float] = []

    async def go(self, seconds: float) -> None:
        began_s = time.monotonic()
        self._spent.begin()
        async with asyncio.TaskGroup() as group:
            for lane in range(CONNECTIONS):
                group.create_task(self._ask_until(began_s + seconds, lane))
        self._spent.end()
        self._lasted_s += time.monotonic() - began_s

    async def _ask_until(self, end_s: float, lane: int) -> None:
        while time.monotonic() < end_s:
            answer = await self._target.ask(AT_ONCE, lane=lane, is_streamed=False)
            self.took_s.append(answer.took_s)

    def tell(self, out: Section) -> None:
        turns, name = len(self.took_s), self._target.name
        found = spread(self.took_s)
        client_s = self._spent.by_role.pop(CLIENT)
        out.note("turns_per_s", name, turns / self._lasted_s)
        out.note("turn_cpu_ms", name, self._spent.measured_s * 1000 / turns)
        out.rows.append(
            [
                TITLES[name],
                f"{turns / self._lasted_s:.0f}",
                ms(found.p50),
                ms(found.p99),
                f"{self._spent.measured_s * 1000 / turns:.2f}",
                by_role(self._spent.by_role, turns, unit=1e3),
                f"{client_s * 1000 / turns:.3f}",
            ]
        )


if __name__ == "__main__":
    run_alone(measure, about=__doc__)
