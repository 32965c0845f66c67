"""Time to the first delta of a warm conversation: `python -m tests.bench.first_words`.

One stream at a time, the targets asked one after the other in every round.
"""

from __future__ import annotations

from tests.bench.field import AT_ONCE, DIRECT, LITELLM, TITLES, Field
from tests.bench.section import Section, run_alone
from tests.bench.stats import spread
from tests.bench.table import ms

ROUNDS = 200
LITELLM_ROUNDS = 60


async def measure(field: Field, is_quick: bool) -> Section:
    """Every target."""
    rounds = 10 if is_quick else ROUNDS
    out = Section(
        f"Time to the first delta, one stream at a time ({rounds} answers)",
        ["target", "p50 ms", "p99 ms", "over direct p50", "over direct p99"],
    )
    waited: dict[str, list[float]] = {target.name: [] for target in field.targets}
    for target in field.targets:
        await target.warm_up(1)
    for turn in range(rounds):
        for target in field.targets:
            if target.name != LITELLM or turn < LITELLM_ROUNDS:
                waited[target.name].append((await target.ask(AT_ONCE)).first_delta_s)
    base = spread(waited[DIRECT])
    for name, samples in waited.items():
        found = spread(samples)
        over = [found.p50 - base.p50, found.p99 - base.p99]
        out.note("first_over_p50_ms", name, over[0] * 1000)
        out.note("first_over_p99_ms", name, over[1] * 1000)
        out.rows.append([TITLES[name], ms(found.p50), ms(found.p99), *map(ms, over)])
    return out


if __name__ == "__main__":
    run_alone(measure, about=__doc__)
