"""What a measure says: tables for people, figures for the marks, series for the plots."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.bench.ending import end_in_order
from tests.bench.field import Field, field_of
from tests.bench.litellm import find_litellm
from tests.bench.table import render

Figures = dict[str, dict[str, float]]
"""By the figure's name, then by the target's."""


@dataclass
class Section:
    """One measure's result."""

    title: str
    columns: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: Figures = field(default_factory=dict)

    def note(self, figure: str, target: str, value: float) -> None:
        """A figure of a target."""
        self.figures.setdefault(figure, {})[target] = value

    def markdown(self) -> str:
        table = [render(self.columns, self.rows)] if self.rows else []
        return "\n\n".join([f"### {self.title}", *table, *self.notes])


Measure = Callable[[Field, bool], Awaitable[Section]]
"""Measures on a field; the second argument is whether quickly."""


def run_alone(*measures: Measure, about: str | None) -> None:
    """The command line of a module that measures one thing on a field of its own."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="a few samples, to see that it works")
    parser.add_argument("--apis", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--litellm", help="LiteLLM's program")
    parser.add_argument("--install-litellm", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    program = find_litellm(given.litellm, given.install_litellm)

    async def run() -> None:
        with field_of(program=program, apis=given.apis, workers=given.workers) as field:
            for measure in measures:
                print((await measure(field, given.quick)).markdown(), end="\n\n", flush=True)

    end_in_order()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def by_role(seconds: Mapping[str, float], per: float, *, unit: float) -> str:
    """`api 0.62 + worker 0.90 + redis 0.58` of whatever the seconds are divided by."""
    digits = 2 if unit == 1e3 else 1
    return " + ".join(f"{role} {s * unit / per:.{digits}f}" for role, s in seconds.items())
