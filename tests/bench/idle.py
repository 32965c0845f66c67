"""What Redis is asked while nobody asks anything: `python -m tests.bench.idle`.

One worker and one API, without conversations and with 200 warm ones.
"""

from __future__ import annotations

import asyncio

from tests.bench import redis_cost
from tests.bench.field import OURS, Field
from tests.bench.section import Section, run_alone

SECONDS = 10.0
WARM = 200


async def measure(field: Field, is_quick: bool) -> Section:
    """First whatever is warm already, then so many."""
    seconds, warm = (2.0, 10) if is_quick else (SECONDS, WARM)
    out = Section(
        "Redis, a second of an idle worker and API", ["warm conversations", "requests", "commands"]
    )
    for count in (0, warm):
        await field.ours.warm_up(count)
        field.ours.hang_up()
        counted = redis_cost.Counted(field.cluster.redis_url)
        await counted.begin()
        await asyncio.sleep(seconds)
        await counted.end()
        requests, commands = redis_cost.asked(counted.ran), sum(counted.ran.values())
        name = "idle" if not count else "idle_warm"
        out.note(f"{name}_requests_per_s", OURS, requests / seconds)
        out.note(f"{name}_commands_per_s", OURS, commands / seconds)
        out.rows.append([str(count), f"{requests / seconds:.1f}", f"{commands / seconds:.1f}"])
    return out


if __name__ == "__main__":
    run_alone(measure, about=__doc__)
