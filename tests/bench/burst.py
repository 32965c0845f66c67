"""A burst of new conversations: `python -m tests.bench.burst` (or `make bench-burst`).

Many conversations of one tenant are asked for at once, on one host with real agents. Printed: when
the first, the middle and the last of them speak, how many fail, when another tenant's single one
speaks that is asked for two seconds later, and how a conversation that is warm fares meanwhile;
beside a lone start and a lone warm turn of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import uvloop

from tests.bench import real
from tests.bench.ending import end_in_order
from tests.bench.field import OURS
from tests.bench.not_here import NotHere
from tests.bench.raw_client import Incomplete
from tests.bench.real import Clients, real_agents
from tests.bench.section import Section
from tests.bench.stats import quantile
from tests.bench.table import ms, ratio
from tests.e2e.deployments import GOOD_KEY

OTHER_KEY = f"{GOOD_KEY}-other"
OTHER_AFTER_S = 2.0
LONE_STARTS = 3
LONE_TURNS = 20
WARM_EVERY_S = 1.0
QUEUE_TIMEOUT_S = "480"
"""At the default a turn that waits longer ends with 503."""


async def measure(
    is_quick: bool, *, isolation: str = "docker", size: int = 20, start_slots: str = "0"
) -> Section:
    """One deployment, one burst."""
    out = Section("A burst of new conversations, real agents")
    settings = {
        "AGCLUSTER_START_SLOTS": start_slots,
        "AGCLUSTER_QUEUE_TIMEOUT_S": QUEUE_TIMEOUT_S,
        **real.without_spares(),
    }
    try:
        with real_agents(isolation, **settings) as clients:
            await _measured(clients, 2 if is_quick else size, isolation, out, is_quick=is_quick)
    except (NotHere, RuntimeError, TimeoutError) as reason:
        out.notes.append(f"*Not measured: {reason}*")
    return out


async def _all_at_once(clients: Clients, size: int) -> list[float | None]:
    """So many new conversations; None for one that failed."""

    async def one(n: int) -> float | None:
        try:
            return await clients.first_delta_s(f"burst-{n}")
        except (Incomplete, OSError, TimeoutError) as error:
            print(f"burst-{n}: {error!r}", flush=True)
            return None

    return await asyncio.gather(*(one(n) for n in range(size)))


async def _other(clients: Clients) -> float:
    """Another tenant, a little later."""
    await asyncio.sleep(OTHER_AFTER_S)
    return await clients.first_delta_s("other", key=OTHER_KEY)


async def _warm_meanwhile(clients: Clients) -> list[float]:
    """Turns of the warm conversation, one after the other, until cancelled."""
    found: list[float] = []
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            found.append(await clients.first_delta_s("warm"))
            await asyncio.sleep(WARM_EVERY_S)
    return found


async def _measured(
    clients: Clients, size: int, isolation: str, out: Section, *, is_quick: bool
) -> None:
    """Lone ones first, then the burst."""
    starts, turns = (1, 2) if is_quick else (LONE_STARTS, LONE_TURNS)
    lone = [await clients.first_delta_s(f"lone-{n}") for n in range(starts)]
    await clients.first_delta_s("warm")
    idle = [await clients.first_delta_s("warm") for _ in range(turns)]
    async with asyncio.TaskGroup() as group:
        warm = group.create_task(_warm_meanwhile(clients))
        other = group.create_task(_other(clients))
        answers = await _all_at_once(clients, size)
        warm.cancel()
    came = sorted(one for one in answers if one is not None)
    sooner = sum(one < other.result() + OTHER_AFTER_S for one in came)
    start_s, idle_s = quantile(lone, 0.5), quantile(idle, 0.5)
    rows = [
        ["a lone start, p50", ms(start_s), "-"],
        *(
            [f"{size} at once, {what}", ms(value), ratio(value, start_s)]
            for what, value in (
                ("first", came[0]),
                ("p50", quantile(came, 0.5)),
                ("last", came[-1]),
            )
        ),
        ["another tenant's, 2 s later", ms(other.result()), ratio(other.result(), start_s)],
        ["a lone warm turn, p50", ms(idle_s), "-"],
    ]
    if meanwhile := warm.result():
        middle = quantile(meanwhile, 0.5)
        rows.append(["a warm turn meanwhile, p50", ms(middle), ratio(middle, idle_s)])
        rows.append(["a warm turn meanwhile, worst", ms(max(meanwhile)), "-"])
    out.title = f"{size} new conversations at once in {isolation}: time to the first delta"
    out.columns, out.rows = ["", "ms", "to the lone one"], list(rows)
    out.notes.append(f"Answered: {len(came)} of {size}. Before the other tenant's: {sooner}.")
    for name, value in (("first", came[0]), ("p50", quantile(came, 0.5)), ("last", came[-1])):
        out.note(f"burst_{name}_s", OURS, value)
    out.note("burst_first_ratio", OURS, came[0] / start_s)
    out.note("burst_other_s", OURS, other.result())
    out.note("burst_answered", OURS, len(came) / size)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isolation", default="docker", choices=["docker", "bubblewrap"])
    parser.add_argument("--size", type=int, default=100, help="new conversations at once")
    parser.add_argument("--start-slots", default="0", help="AGCLUSTER_START_SLOTS")
    given = parser.parse_args()
    measured = measure(
        False, isolation=given.isolation, size=given.size, start_slots=given.start_slots
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(measured).markdown())


if __name__ == "__main__":
    end_in_order()
    main()
