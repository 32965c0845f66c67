"""The table that counts: what is wanted, what was found, and whether that is enough. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.field import DIRECT, LITELLM, OURS
from tests.bench.table import render

Found = Mapping[str, Mapping[str, float]]
"""By the figure's name, then by the target's."""
NONE = "–"
SMOOTH_MS = 50.0
"""A reader sees no jerk below."""
_AGE = re.compile(r"streams(\d+)_age_p99_ms")


@dataclass(frozen=True)
class Mark:
    """One line. Each of its figures has its own aim, or none."""

    title: str
    figures: Sequence[str]
    wanted: Sequence[float | None]
    is_least: bool = False
    """Whether the aim is the least that is wanted, and not the most."""

    def aim(self) -> str:
        sign = "≥" if self.is_least else "≤"
        return " / ".join(NONE if aim is None else f"{sign} {aim:,g}" for aim in self.wanted)

    def shown(self, found: Found, target: str) -> str:
        """What a target came to; a dash where nothing was measured."""
        values = [found.get(figure, {}).get(target) for figure in self.figures]
        if all(value is None for value in values):
            return NONE
        return " / ".join(NONE if value is None else figure_of(value) for value in values)

    def verdict(self, found: Found) -> str:
        """`met`, `missed`, or a dash where there is no aim or no figure."""
        values = [found.get(figure, {}).get(OURS) for figure in self.figures]
        judged = [
            value >= aim if self.is_least else value <= aim
            for value, aim in zip(values, self.wanted, strict=True)
            if value is not None and aim is not None
        ]
        if not judged:
            return NONE
        return "met" if all(judged) else "**missed**"


MARKS = (
    Mark(
        "first delta over direct, p50 / p99 ms",
        ("first_over_p50_ms", "first_over_p99_ms"),
        (2.0, 5.0),
    ),
    Mark(
        "added per delta p50 / p99 ms, 50 streams × 50/s",
        ("streams50_over_p50_ms", "streams50_over_p99_ms"),
        (0.4, 3.0),
    ),
    Mark(
        "added per delta p50 / p99 ms, 200 streams × 50/s",
        ("streams200_over_p50_ms", "streams200_over_p99_ms"),
        (0.6, 10.0),
    ),
    Mark("deltas/s per core, 200 streams", ("streams200_deltas_per_core",), (15_000,), True),
    Mark("streams × 50/s with p99 < 50 ms, of those tried", ("streams_smooth",), (1_000,), True),
    Mark(
        "200 streams starting at once: first delta p50 / p99 ms",
        ("together200_p50_ms", "together200_p99_ms"),
        (None, 200.0),
    ),
    Mark("tiny turns/s, 16 connections", ("turns_per_s",), (1_200,), True),
    Mark("CPU ms of a tiny turn", ("turn_cpu_ms",), (None,)),
    Mark("KiB per open silent stream (API)", ("silent_kib",), (25.0,)),
    Mark("a turn after 1,000 over one after 10, thin client", ("long_thin_ratio",), (1.2,)),
    Mark("the same, a client that resends it all", ("long_resending_ratio",), (1.2,)),
    Mark(
        "new conversation, cold, Docker / bubblewrap s",
        ("cold_docker_s", "cold_bubblewrap_s"),
        (1.0, 1.0),
    ),
    Mark(
        "new conversation, pooled, Docker / bubblewrap s",
        ("pooled_docker_s", "pooled_bubblewrap_s"),
        (0.15, 0.15),
    ),
    Mark(
        "resumed conversation, Docker / bubblewrap s",
        ("resumed_docker_s", "resumed_bubblewrap_s"),
        (0.9, 0.9),
    ),
    Mark(
        "warm turn, real agent, Docker / bubblewrap s",
        ("warm_docker_s", "warm_bubblewrap_s"),
        (None, None),
    ),
    Mark("hibernated conversation, MB", ("hibernated_mb",), (1.0,)),
    Mark(
        "XADD / requests for a delta, 200 streams",
        ("streams200_xadd_per_delta", "streams200_requests_per_delta"),
        (0.09, 0.25),
    ),
    Mark("requests for a delta, one stream", ("streams1_requests_per_delta",), (0.3,)),
    Mark(
        "scripts / commands of a tiny turn",
        ("scripts_per_turn", "commands_per_turn"),
        (4.0, 60.0),
    ),
    Mark(
        "requests / commands a second, idle",
        ("idle_requests_per_s", "idle_commands_per_s"),
        (4.0, None),
    ),
    Mark(
        "20 new conversations at once, the first over a lone start", ("burst_first_ratio",), (1.5,)
    ),
    Mark("of these: the last one's first delta, s", ("burst_last_s",), (None,)),
)


def smooth_streams(found: Found, target: str) -> float | None:
    """The most streams at which nearly every delta came in time; None where none was tried."""
    tried = {
        int(match[1]): ages[target]
        for figure, ages in found.items()
        if (match := _AGE.fullmatch(figure)) and target in ages
    }
    if not tried:
        return None
    return float(max((count for count, p99 in tried.items() if p99 < SMOOTH_MS), default=0))


def table(now: Found, before: Found | None) -> str:
    """Every mark of which something is known."""
    names = ["figure", "direct", "LiteLLM", *(["before"] if before else []), "now", "wanted", ""]
    rows = []
    for mark in MARKS:
        ours = mark.shown(now, OURS)
        past = mark.shown(before, OURS) if before else NONE
        if ours == past == NONE:
            continue
        rows.append(
            [
                mark.title,
                mark.shown(now, DIRECT),
                mark.shown(now, LITELLM),
                *([past] if before else []),
                ours,
                mark.aim(),
                mark.verdict(now),
            ]
        )
    return render(names, rows)


def figure_of(value: float) -> str:
    """Three digits that mean something."""
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
