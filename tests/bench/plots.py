"""Plots of a run, as SVG beside its page. Needs matplotlib (`pip install -e '.[bench]'`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.field import DIRECT, LITELLM, OURS, TITLES
from tests.bench.results import Results
from tests.bench.section import Figures

SIZE_IN = (7.0, 3.6)
ISOLATIONS = ("docker", "bubblewrap")


def draw(now: Results, before: Results | None, folder: Path) -> list[tuple[str, str]]:
    """Draw what there are figures for, into this folder: title and file name of each plot.

    Nothing without matplotlib.
    """
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError:
        print("(no plots: `pip install -e '.[bench]'` brings matplotlib)")
        return []
    # The same figures make the same file.
    matplotlib.rcParams["svg.hashsalt"] = "agcluster"
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, (title, plot) in PLOTS.items():
        figure, axes = pyplot.subplots(figsize=SIZE_IN)
        if plot(axes, now.figures, before.figures if before else {}):
            figure.tight_layout()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            drawn.append((title, f"{name}.svg"))
        pyplot.close(figure)
    return drawn


def series(figures: Figures, pattern: str, target: str) -> list[tuple[int, float]]:
    """The figures whose names match, by the number in them."""
    found = [
        (int(match[1]), values[target])
        for figure, values in figures.items()
        if (match := re.fullmatch(pattern, figure)) and target in values
    ]
    return sorted(found)


def _load(axes: Any, now: Figures, before: Figures) -> bool:
    """Age of a delta over the number of streams."""
    lines = [
        (TITLES[DIRECT], now, DIRECT),
        (TITLES[LITELLM], now, LITELLM),
        ("AgCluster before", before, OURS),
        ("AgCluster", now, OURS),
    ]
    for n, (title, figures, target) in enumerate(lines):
        for quantile, style in (("p50", "-"), ("p99", "--")):
            points = series(figures, rf"streams(\d+)_age_{quantile}_ms", target)
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=f"C{n}",
                    marker="o",
                    label=f"{title}, {quantile}",
                )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="streams at once, 50 deltas/s each",
        ylabel="age of a delta on arrival, ms",
    )
    return _is_drawn(axes)


def _length(axes: Any, now: Figures, before: Figures) -> bool:
    """CPU of a turn over the turns before it."""
    for n, (title, figures) in enumerate((("before", before), ("now", now))):
        for client, style in (("thin", "-"), ("resending", "--")):
            points = series(figures, rf"length(\d+)_{client}_ms", OURS)
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=f"C{n}",
                    marker="o",
                    label=f"{title}, {client} client",
                )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="turns the conversation has had",
        ylabel="CPU of API, worker and Redis, ms a turn",
    )
    return _is_drawn(axes)


def _start(axes: Any, now: Figures, before: Figures) -> bool:
    """When the phases of a cold start are reached."""
    rows: list[tuple[str, Sequence[tuple[str, float]]]] = [
        (isolation, reached) for isolation in ISOLATIONS if (reached := _phases(now, isolation))
    ]
    for row, (_, reached) in enumerate(rows):
        since_ms = 0.0
        for n, (phase, at_ms) in enumerate(reached):
            axes.barh(row, at_ms - since_ms, left=since_ms, color=f"C{n % 10}", height=0.5)
            if at_ms - since_ms > reached[-1][1] * 0.05:
                axes.text((since_ms + at_ms) / 2, row, phase, rotation=90, ha="center", va="center")
            since_ms = at_ms
    axes.set(
        yticks=range(len(rows)),
        yticklabels=[isolation for isolation, _ in rows],
        xlabel="ms after the request until a phase is reached (median of cold starts)",
    )
    return bool(rows)


def _phases(figures: Figures, isolation: str) -> Sequence[tuple[str, float]]:
    pattern = re.compile(rf"timeline_{isolation}_(\w+)_ms")
    reached: Mapping[str, float] = {
        match[1]: values[OURS]
        for name, values in figures.items()
        if (match := pattern.fullmatch(name))
    }
    return sorted(reached.items(), key=lambda one: one[1])


def _is_drawn(axes: Any) -> bool:
    if not axes.lines:
        return False
    axes.legend(fontsize="small")
    axes.grid(visible=True, which="both", alpha=0.2)
    return True


PLOTS = {
    "load": ("Age of a delta on arrival, by the number of streams", _load),
    "length": ("CPU of a turn, by the turns its conversation has had", _length),
    "start": ("The phases of a cold start", _start),
}
