"""Where API and worker spend their CPU: `python -m tests.bench.profiles`.

Under 200 streams and under tiny turns, by samples that the programs take of themselves
(`tests.bench.sampled`). The first table has what a function spends with all that it calls, of our
packages and the libraries' ways into them; the second what it spends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.ending import end_in_order
from tests.bench.field import Field, field_of
from tests.bench.paced_streams import Run as StreamsRun
from tests.bench.stand_in import PROFILES
from tests.bench.table import render
from tests.bench.tiny_turns import CONNECTIONS
from tests.bench.tiny_turns import Run as TurnsRun

STREAMS = 200
MOST = 14
_FRAMEWORK = re.compile(
    r"asyncio/|uvloop|<frozen|runpy|tests/bench|bench/sampled|contextlib|main\.py|serve|TaskGroup"
)
"""On every stack, whatever is asked: no news."""


Sampling = Callable[[], AbstractContextManager[None]]


@contextmanager
def _sampling(folder: Path) -> Iterator[None]:
    """Samples are taken for the length of the block."""
    on = folder / "on"
    on.touch()
    yield
    on.unlink()


async def _streams(field: Field, sampling: Sampling, is_quick: bool) -> None:
    streams = 10 if is_quick else STREAMS
    await field.ours.warm_up(streams)
    run = StreamsRun(field.ours, streams, 25 if is_quick else 200)
    with sampling():
        for _ in range(1 if is_quick else 3):
            await run.go()


async def _turns(field: Field, sampling: Sampling, is_quick: bool) -> None:
    await field.ours.warm_up(CONNECTIONS)
    with sampling():
        await TurnsRun(field.ours).go(1.0 if is_quick else 8.0)


LOADS: dict[str, Callable[[Field, Sampling, bool], Coroutine[Any, Any, None]]] = {
    f"{STREAMS} streams": _streams,
    "tiny turns": _turns,
}


async def measure(is_quick: bool) -> str:
    """Each load on a cluster of its own."""
    said: list[str] = []
    for load, make in LOADS.items():
        with tempfile.TemporaryDirectory(prefix="agcb-") as folder:
            os.environ[PROFILES] = folder
            try:
                with field_of() as field:
                    await make(field, lambda: _sampling(Path(folder)), is_quick)
            finally:
                del os.environ[PROFILES]
            said += _all_told(load, Path(folder))
    return "\n\n".join(said)


def _all_told(load: str, folder: Path) -> list[str]:
    return [_told(load, file) for file in sorted(folder.glob("*.json"))]


def _told(load: str, file: Path) -> str:
    kept = json.loads(file.read_text())
    samples = max(1, kept["samples"])
    program = "API" if file.name.startswith("api") else "worker"
    tables = [f"#### {program} under {load} ({kept['samples']} samples)"]
    for title, found in (("with what it calls", kept["within"]), ("by itself", kept["inner"])):
        rows = [
            [name, f"{count * 100 / samples:.0f} %"]
            for name, count in found
            if not (title == "with what it calls" and _FRAMEWORK.search(name))
        ]
        tables.append(render([title, "CPU"], rows[:MOST]))
    return "\n\n".join(tables)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(measure(given.quick)))


if __name__ == "__main__":
    end_in_order()
    main()
