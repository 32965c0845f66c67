"""`python -m tests.bench` (or `make bench`): the whole run.

    make bench ARGS="--save before.json"                       # measure and keep
    make bench ARGS="--before before.json --write docs/explanation/performance.md"

Prints each section as it comes, then the table of marks. About twelve minutes on two quiet cores,
LiteLLM not counted; `--quick` takes two and shows only that everything works.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import uvloop

from tests.bench import (
    border_cost,
    burst,
    conversation_length,
    counts,
    first_words,
    hibernation,
    idle,
    marks,
    paced_streams,
    plots,
    replicas,
    results,
    silent_streams,
    starting_at_once,
    starts,
    tiny_turns,
)
from tests.bench.document import Document
from tests.bench.ending import end_in_order
from tests.bench.field import field_of
from tests.bench.litellm import find_litellm
from tests.bench.not_here import NotHere
from tests.bench.results import Results
from tests.bench.section import Measure, Section

HOT: dict[str, Sequence[Measure]] = {
    "idle": [idle.measure],
    "counts": [counts.measure],
    "hot": [
        first_words.measure,
        tiny_turns.measure,
        paced_streams.at(1),
        paced_streams.at(50),
        paced_streams.at(200),
        starting_at_once.measure,
    ],
    "load": [
        paced_streams.at(500, deltas=100, rounds=1),
        paced_streams.at(1000, deltas=100, rounds=1),
    ],
    "silent": [silent_streams.measure],
    "long": [conversation_length.measure],
}
"""Measured on clusters with stand-in agents, each line on one of its own."""
OTHERS: dict[str, Callable[[bool], Awaitable[Section]]] = {
    "processes": replicas.measure,
    "cold": starts.measure,
    "hibernated": hibernation.measure,
    "burst": burst.measure,
    "border": border_cost.measure,
}
"""What starts its own programs."""
EVERYTHING = (*HOT, *OTHERS)


class Run:
    """One run's sections, printed as they come."""

    def __init__(self, *, is_quick: bool, program: str | None, keep_in: Path | None) -> None:
        self._is_quick = is_quick
        self._program = program
        self._keep_in = keep_in
        self.results = results.of_this_machine()
        self.sections: list[str] = []

    async def go(self, names: Sequence[str]) -> None:
        """Measure these, in the order of the whole run."""
        print(self.results.headline(), end="\n\n")
        wanted = [name for name in EVERYTHING if name in names]
        if self._is_quick:
            # One cluster for all of them: starting programs takes the most of a quick run.
            hot = [measure for name in wanted if name in HOT for measure in HOT[name]]
            await self._hot(hot)
            wanted = [name for name in wanted if name in OTHERS]
        for name in wanted:
            began_s = time.monotonic()
            try:
                await (self._hot(HOT[name]) if name in HOT else self._other(name))
            except NotHere as reason:
                self._say(f"*Not measured: {name}. {reason}*")
            print(f"({name}: {time.monotonic() - began_s:.0f} s)", end="\n\n", flush=True)
            self.results.conclude()
            if self._keep_in:
                # A run that is ended has kept what it found.
                self.results.save(self._keep_in)

    async def _hot(self, measures: Sequence[Measure]) -> None:
        if not measures:
            return
        with field_of(program=self._program) as field:
            for target, reason in field.missing.items():
                print(f"({target} is not measured: {reason})", end="\n\n")
            for measure in measures:
                self._add(await measure(field, self._is_quick))

    async def _other(self, name: str) -> None:
        self._add(await OTHERS[name](self._is_quick))

    def _add(self, section: Section) -> None:
        self.results.add(section)
        self._say(section.markdown())

    def _say(self, text: str) -> None:
        self.sections.append(text)
        print(text, end="\n\n", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few samples, to see that it works")
    parser.add_argument("--only", default=",".join(EVERYTHING), help="which sections, by commas")
    parser.add_argument("--litellm", help="LiteLLM's program")
    parser.add_argument(
        "--install-litellm", type=Path, metavar="FOLDER", help="make an environment with it there"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the figures as JSON")
    parser.add_argument("--before", type=Path, metavar="FILE", help="figures kept by another run")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put it between a page's markers, with plots"
    )
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := set(names) - set(EVERYTHING):
        parser.error(f"no such section: {', '.join(sorted(unknown))} (of {', '.join(EVERYTHING)})")
    before = Results.load(given.before) if given.before else None
    program = find_litellm(given.litellm, given.install_litellm)
    run = Run(is_quick=given.quick, program=program, keep_in=given.save)
    # The client shares the machine with what it measures, so it has to be cheap.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run.go(names))
    table = marks.table(run.results.figures, before.figures if before else None)
    print(table)
    if given.quick:
        print(
            "\nA quick run has few samples, few streams and short conversations: not to be quoted."
        )
    if given.write:
        write(given.write, run, table, before)


def write(page: Path, run: Run, table: str, before: Results | None) -> None:
    """The table, the plots and every section, where the page wants them."""
    heads = [f"Now: {run.results.headline()}"]
    if before:
        heads.append(f"Before: {before.headline()}")
    folder = page.with_suffix("")
    document = Document(page)
    document.put("marks", "\n\n".join([table, *heads]))
    drawn = plots.draw(run.results, before, folder)
    document.put(
        "plots",
        "\n\n".join(f"![{title}]({folder.name}/{file})" for title, file in drawn)
        or "No plots: matplotlib is not installed.",
    )
    document.put("bench", "\n\n".join(run.sections))
    document.save()


if __name__ == "__main__":
    end_in_order()
    main()
