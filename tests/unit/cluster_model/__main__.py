"""Many schedules, on all cores: `make model ARGS="--seeds 20000"`. Too long for CI; for a night.

Prints the shortest schedule of each that breaks something, to be pasted into `World(...)`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.unit.cluster_model.schedules import drawn, shortest, told, warm, wild
from tests.unit.cluster_model.world import Schedule, World

BLOCK = 50
KINDS: dict[str, Callable[[int], Schedule]] = {"drawn": drawn, "wild": wild, "warm": warm}


def main() -> int:
    """The exit code: 1 when something broke."""
    options = _options()
    begun_s = time.monotonic()
    blocks = list(_blocks(options.first, options.first + options.seeds))
    broken = tried = 0
    with ProcessPoolExecutor() as pool:
        under_way = [pool.submit(_try, kind, block) for block in blocks for kind in KINDS]
        for done in as_completed(under_way):
            stories = done.result()
            tried += 1
            broken += len(stories)
            for story in stories:
                print(story, flush=True)
            if tried % 20 == 0 or tried == len(under_way):
                took_s = time.monotonic() - begun_s
                done_of = f"{tried}/{len(under_way)} blocks"
                print(f"{done_of}, {broken} broken, {took_s:.0f} s", flush=True)
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make model", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many, of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    return parser.parse_args()


def _blocks(first: int, end: int) -> Iterator[range]:
    for begin in range(first, end, BLOCK):
        yield range(begin, min(begin + BLOCK, end))


def _try(kind: str, seeds: range) -> Sequence[str]:
    """What is broken by schedules of these seeds, and how."""
    logging.disable(logging.CRITICAL)
    stories = []
    for seed in seeds:
        schedule = KINDS[kind](seed)
        if _broken(schedule):
            schedule = shortest(schedule, lambda other: _broken(other) is not None)
            stories.append(f"{kind} {seed}: {_broken(schedule)}\n{told(schedule)}")
    return stories


def _broken(schedule: Schedule) -> str | None:
    try:
        World(schedule).live()
    except AssertionError as broken:
        return str(broken)
    return None


if __name__ == "__main__":
    sys.exit(main())
