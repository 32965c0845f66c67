"""Streams that begin at the same moment: `python -m tests.bench.starting_at_once`.

All conversations are warm and each has its connection; what is measured is how long the last ones
wait for their first word when 50 or 200 are asked at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.bench.cpu import CLIENT, Spent, with_client
from tests.bench.field import AT_ONCE, LITELLM, TITLES, Field, Target
from tests.bench.section import Section, by_role, run_alone
from tests.bench.stats import spread
from tests.bench.table import ms

ROUNDS = 5
LITELLM_ROUNDS = 1
"""One takes it long enough."""


async def measure(field: Field, is_quick: bool) -> Section:
    """Every target, 50 and 200 at once."""
    out = Section(
        "Streams that start at the same moment: time to the first delta",
        ["target", "streams", "p50 ms", "p99 ms", "CPU ms/stream", "of it"],
    )
    for streams in (10,) if is_quick else (50, 200):
        able = field.able(streams)
        for target in able:
            await target.warm_up(streams)
        for target in able:
            rounds = LITELLM_ROUNDS if is_quick or target.name == LITELLM else ROUNDS
            await _tell(out, target, streams, rounds)
            target.hang_up()
    return out


async def _tell(out: Section, target: Target, streams: int, rounds: int) -> None:
    spent = Spent(with_client(target.roles))
    waited_s: list[float] = []
    for _ in range(rounds):
        await target.warm_up(streams)
        spent.begin()
        waited_s += await _at_once(target, streams)
        spent.end()
    found = spread(waited_s)
    spent.by_role.pop(CLIENT)
    out.note(f"together{streams}_p50_ms", target.name, found.p50 * 1000)
    out.note(f"together{streams}_p99_ms", target.name, found.p99 * 1000)
    out.rows.append(
        [
            TITLES[target.name],
            str(streams),
            ms(found.p50),
            ms(found.p99),
            f"{spent.measured_s * 1000 / len(waited_s):.2f}",
            by_role(spent.by_role, len(waited_s), unit=1e3),
        ]
    )


async def _at_once(target: Target, streams: int) -> Sequence[float]:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(target.ask(AT_ONCE, lane=lane)) for lane in range(streams)]
    return [task.result().first_delta_s for task in asked]


if __name__ == "__main__":
    run_alone(measure, about=__doc__)
