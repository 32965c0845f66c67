"""Walks for so many minutes, from one seed on: `python -m tests.walks --minutes 10 --seed 1`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

import httpx

from tests.e2e.deployments import GOOD_KEY, Deployment, embedded
from tests.walks.walker import MODELS, Kind, Place, Walker

SETTINGS = {"AGCLUSTER_IDLE_TIMEOUT_S": "3", "AGCLUSTER_MODELS": ",".join(MODELS)}
STEPS = 12
KINDS: tuple[Kind, ...] = ("thin", "resends", "nameless", "cuts")


async def walk(
    deployment: Deployment, seed: int, *, steps: int = STEPS, kinds: Sequence[Kind] = KINDS
) -> None:
    """One page of each kind. Raises `WrongMemory`."""
    place = Place(deployment.base_url, deployment.model_url, GOOD_KEY)
    async with httpx.AsyncClient(base_url=place.base_url, timeout=180) as http:
        for kind in kinds:
            await Walker(place, http, seed=seed, kind=kind).walk(steps)


def main() -> int:
    """Stops at the first wrong memory, and says the seed and the steps."""
    parser = argparse.ArgumentParser(prog="python -m tests.walks", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--isolation", default="bubblewrap")
    given = parser.parse_args()
    with embedded(given.isolation, **SETTINGS) as deployment:
        until, seed = time.monotonic() + given.minutes * 60, given.seed
        while time.monotonic() < until:
            asyncio.run(walk(deployment, seed, steps=given.steps))
            print(f"seed {seed}: the memory is what the pages show", flush=True)
            seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
