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
from pathlib import Path

import aiohttp
import uvloop

from tests.bench import report, streams
from tests.bench.report import Report
from tests.bench.stats import quantile
from tests.bench.streams import Incomplete
from tests.bench.table import ms, ratio, render
from tests.e2e.deployments import GOOD_KEY, MODEL, embedded

PROMPT = "count 1"
"""Answered with one delta, at once."""
OTHER_KEY = f"{GOOD_KEY}-other"
OTHER_AFTER_S = 2.0
LONE_STARTS = 3
LONE_TURNS = 20
WARM_EVERY_S = 1.0
WITHIN_S = 500.0


class Clients:
    """Those who ask one deployment."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._base_url = base_url

    async def first_delta_s(self, conversation: str, *, key: str = GOOD_KEY) -> float:
        """How long one waits for the first word. Raises `Incomplete`."""
        question = streams.openai(self._base_url, model=MODEL, key=key, conversation=conversation)
        answer = await streams.ask(self._session, question, PROMPT, within_s=WITHIN_S)
        return answer.first_delta_s

    async def burst(self, size: int) -> list[float | None]:
        """So many new conversations at once; None for one that failed."""

        async def one(n: int) -> float | None:
            try:
                return await self.first_delta_s(f"burst-{n}")
            except (Incomplete, aiohttp.ClientError, TimeoutError) as error:
                print(f"burst-{n}: {error!r}", flush=True)
                return None

        return await asyncio.gather(*(one(n) for n in range(size)))

    async def other(self) -> float:
        """Another tenant, a little later."""
        await asyncio.sleep(OTHER_AFTER_S)
        return await self.first_delta_s("other", key=OTHER_KEY)

    async def warm_meanwhile(self) -> list[float]:
        """Turns of the warm conversation, one after the other, until cancelled."""
        found: list[float] = []
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                found.append(await self.first_delta_s("warm"))
                await asyncio.sleep(WARM_EVERY_S)
        return found


async def measure(clients: Clients, size: int, out: Report) -> None:
    """Lone ones first, then the burst."""
    lone = [await clients.first_delta_s(f"lone-{n}") for n in range(LONE_STARTS)]
    await clients.first_delta_s("warm")
    idle = [await clients.first_delta_s("warm") for _ in range(LONE_TURNS)]
    async with asyncio.TaskGroup() as group:
        warm = group.create_task(clients.warm_meanwhile())
        other = group.create_task(clients.other())
        answers = await clients.burst(size)
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
    out.add(f"### {size} new conversations at once: time to the first delta")
    out.add(render(["", "ms", "to the lone one"], rows))
    out.add(f"Answered: {len(came)} of {size}. Before the other tenant's: {sooner}.")


async def bench(isolation: str, size: int, settings: dict[str, str], out: Report) -> None:
    """One deployment, one burst."""
    out.add(report.machine())
    with embedded(isolation, **settings) as deployment:
        async with streams.client_session() as session:
            await measure(Clients(session, deployment.base_url), size, out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isolation", default="docker", choices=["docker", "bubblewrap"])
    parser.add_argument("--size", type=int, default=100, help="new conversations at once")
    parser.add_argument("--start-slots", default="0", help="AGCLUSTER_START_SLOTS")
    parser.add_argument("--write", type=Path, help="put the result between a document's markers")
    given = parser.parse_args()
    out = Report()
    settings = {"AGCLUSTER_START_SLOTS": given.start_slots, "AGCLUSTER_QUEUE_TIMEOUT_S": "480"}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bench(given.isolation, given.size, settings, out))
    if given.write:
        out.write(given.write)


if __name__ == "__main__":
    main()
