"""Many streams at once: `python -m tests.bench.paced_streams --streams 50,200`.

Each stream has 50 deltas a second, as a model writes. Printed: how old a delta is on arrival, over
the model's own; CPU of each program for a delta; what a delta asks of Redis. The turn's own cost is
in these figures; `--deltas 50,200` prints the marginal cost too, which leaves it out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.bench import redis_cost
from tests.bench.cpu import CLIENT, Spent, with_client
from tests.bench.cpu import OURS as OUR_ROLES
from tests.bench.field import DIRECT, LITELLM, OURS, TITLES, Field, Target
from tests.bench.section import Measure, Section, by_role, run_alone
from tests.bench.stats import spread
from tests.bench.table import ms

EVERY_MS = 20.0
DELTAS = 200
ROUNDS = 3
QUICKLY = 20
"""A quick run has so many times fewer streams."""
SLOW_FROM = 200
"""LiteLLM is asked once for so many: it is saturated long before."""
COLUMNS = [
    "target",
    "age p50 ms",
    "age p99 ms",
    "over direct p50",
    "over direct p99",
    "deltas/s",
    "CPU us/delta",
    "of it",
    "deltas/s per core",
    "client us/delta",
]


def at(streams: int, *, deltas: int = DELTAS, rounds: int = ROUNDS) -> Measure:
    """The measure of so many streams."""

    async def measure(field: Field, is_quick: bool) -> Section:
        if is_quick:
            return await _measure(field, max(1, streams // QUICKLY), deltas=25, rounds=1)
        return await _measure(field, streams, deltas=deltas, rounds=rounds)

    return measure


async def _measure(field: Field, streams: int, *, deltas: int, rounds: int) -> Section:
    out = Section(f"{streams} streams at once, {1000 / EVERY_MS:.0f} deltas/s each", COLUMNS)
    able = field.able(streams)
    for target in able:
        await target.warm_up(streams)
    runs = {target.name: Run(target, streams, deltas) for target in able}
    counted = redis_cost.Counted(field.cluster.redis_url)
    for turn in range(rounds):
        for target in able:
            if turn and streams >= SLOW_FROM and target.name == LITELLM:
                continue
            if target.name == OURS:
                await counted.begin()
            await runs[target.name].go()
            if target.name == OURS:
                await counted.end()
    for run in runs.values():
        run.tell(out, runs[DIRECT])
    for target in able:
        target.hang_up()
    if ours := runs.get(OURS):
        _tell_redis(out, counted.ran, ours, streams)
    return out


class Run:
    """One target's streams."""

    def __init__(self, target: Target, streams: int, deltas: int) -> None:
        self.target = target
        self._streams = streams
        self._deltas = deltas
        self._spent = Spent(with_client(target.roles))
        self._lasted_s = 0.0
        self.ages_s: list[float] = []

    async def go(self) -> None:
        """All streams begin at once; what they said is read when all have ended."""
        prompt = f"stream {self._deltas} every {EVERY_MS:g} ms"
        began_s = time.monotonic()
        self._spent.begin()
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self.target.ask(prompt, lane=lane))
                for lane in range(self._streams)
            ]
        self._spent.end()
        self._lasted_s += time.monotonic() - began_s
        for task in asked:
            self.ages_s += task.result().ages_s(self._deltas)

    def tell(self, out: Section, direct: Run) -> None:
        """A row, and the figures of this load."""
        name, count, own = self.target.name, len(self.ages_s), spread(self.ages_s)
        base = spread(direct.ages_s)
        over = [own.p50 - base.p50, own.p99 - base.p99]
        spent_s = self._spent.measured_s
        client_s = self._spent.by_role.pop(CLIENT)
        figures = {
            "age_p50_ms": own.p50 * 1000,
            "age_p99_ms": own.p99 * 1000,
            "over_p50_ms": over[0] * 1000,
            "over_p99_ms": over[1] * 1000,
            "deltas_per_s": count / self._lasted_s,
            "delta_cpu_us": spent_s * 1e6 / count,
            "deltas_per_core": count / spent_s,
        }
        for figure, value in figures.items():
            out.note(f"streams{self._streams}_{figure}", name, value)
        out.rows.append(
            [
                TITLES[name],
                ms(own.p50),
                ms(own.p99),
                *(["-", "-"] if self is direct else map(ms, over)),
                f"{count / self._lasted_s:.0f}",
                f"{spent_s * 1e6 / count:.1f}",
                by_role(self._spent.by_role, count, unit=1e6),
                f"{count / spent_s:.0f}",
                f"{client_s * 1e6 / count:.1f}",
            ]
        )

    @property
    def spent_by_role(self) -> dict[str, float]:
        return {role: self._spent.by_role[role] for role in OUR_ROLES}


def _tell_redis(out: Section, ran: redis_cost.Calls, ours: Run, streams: int) -> None:
    deltas = len(ours.ages_s)
    figures = {
        "xadd": ran.get("xadd", 0),
        "requests": redis_cost.asked(ran),
        "scripts": redis_cost.scripts(ran),
        "commands": sum(ran.values()),
    }
    for figure, count in figures.items():
        out.note(f"streams{streams}_{figure}_per_delta", OURS, count / deltas)
    out.notes.append(f"Redis, for a delta of ours: {redis_cost.said(ran, deltas)}.")


def marginal(streams: int, lengths: Sequence[int]) -> Measure:
    """CPU of ours for one more delta: what longer answers took more, over the deltas more."""

    async def measure(field: Field, is_quick: bool) -> Section:
        few, many = (20, 40) if is_quick else lengths
        await field.ours.warm_up(streams)
        runs = [Run(field.ours, streams, deltas) for deltas in (few, many)]
        for _ in range(1 if is_quick else 2 * ROUNDS):
            for run in runs:
                await run.go()
        short, long = runs
        more = len(long.ages_s) - len(short.ages_s)
        us = {
            role: (s - short.spent_by_role[role]) * 1e6 / more
            for role, s in long.spent_by_role.items()
        }
        out = Section(f"One more delta, {streams} streams ({many} deltas a turn, and {few})")
        for role, value in us.items():
            out.note(f"marginal{streams}_{role}_us", OURS, value)
        parts = " + ".join(f"{role} {value:.1f}" for role, value in us.items())
        out.notes.append(f"CPU: {sum(us.values()):.1f} us = {parts}.")
        return out

    return measure


if __name__ == "__main__":
    run_alone(at(1), at(50), at(200), marginal(50, (50, 200)), about=__doc__)
