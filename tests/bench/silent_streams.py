"""What an open stream holds that says nothing: `python -m tests.bench.silent_streams`.

Memory of each program (its share of the pages, PSS) with some streams open and with more, divided
by how many more. The first ones use up what the programs had free. Conversations are warm before,
over one connection, so this is what a connection, its stream and its turn take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tests.bench.cpu import held_kib
from tests.bench.field import AT_ONCE, OURS, TITLES, Field, Target
from tests.bench.raw_client import Connection, says
from tests.bench.section import Section, run_alone

FIRST, MORE = 100, 300
SETTLE_S = 2.0
"""Until what was held for a moment only is given back."""


async def measure(field: Field, is_quick: bool) -> Section:
    """Every target."""
    first, more = (10, 20) if is_quick else (FIRST, MORE)
    out = Section(
        f"Memory of an open silent stream ({more} more beside {first})",
        ["target", "KiB", "of it", "before MiB"],
    )
    for target in field.able(first + more):
        await _tell(out, target, first, more, settle_s=0.5 if is_quick else SETTLE_S)
    return out


async def _tell(out: Section, target: Target, first: int, more: int, *, settle_s: float) -> None:
    connection = Connection()
    for lane in range(first + more):
        await connection.ask(target.question(lane), says(AT_ONCE))
    connection.close()
    before = await _held_with(target, range(first), settle_s)
    after = await _held_with(target, range(first, first + more), settle_s)
    target.hang_up()
    await asyncio.sleep(settle_s)
    each = {role: (kib - before[role]) / more for role, kib in after.items()}
    ours = {role: kib for role, kib in each.items() if role != "agents"}
    # The mark is the API's: what one that waits costs the process that holds its connection.
    figure = each["api"] if target.name == OURS else sum(each.values())
    out.note("silent_kib", target.name, figure)
    out.note("silent_all_kib", target.name, sum(ours.values()))
    out.rows.append(
        [
            TITLES[target.name],
            f"{sum(ours.values()):.1f}",
            " + ".join(f"{role} {kib:.1f}" for role, kib in each.items()),
            f"{sum(kib for role, kib in before.items() if role != 'agents') / 1024:.0f}",
        ]
    )


async def _held_with(target: Target, lanes: range, settle_s: float) -> Mapping[str, int]:
    """By role in KiB, when these are open too."""
    for lane in lanes:
        await target.connection(lane).open(target.question(lane), says("hang"))
    await asyncio.sleep(settle_s)
    return {role: sum(map(held_kib, pids)) for role, pids in target.roles.items()}


if __name__ == "__main__":
    run_alone(measure, about=__doc__)
