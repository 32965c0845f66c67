"""What a run has to say: sections of Markdown, for the terminal and for docs/performance.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.redis_cost import Calls, asked
from tests.bench.runs import Measured
from tests.bench.stats import Spread, spread
from tests.bench.table import ms, ratio, render

MARKERS = ("<!-- bench -->", "<!-- /bench -->")


class Report:
    """Sections, printed as they come."""

    def __init__(self) -> None:
        self._sections: list[str] = []

    def add(self, text: str) -> None:
        self._sections.append(text)
        print(text, end="\n\n", flush=True)

    def write(self, file: Path) -> None:
        """Replace what stands between the markers of a document."""
        head, _, rest = file.read_text().partition(MARKERS[0])
        _, _, tail = rest.partition(MARKERS[1])
        file.write_text(head + "\n\n".join([MARKERS[0], *self._sections, MARKERS[1]]) + tail)


def compared(measured: Sequence[Measured], samples: Callable[[Measured], Sequence[float]]) -> str:
    """p50 and p99 of each target, and what it adds to the first one."""
    spreads = [spread(samples(one)) for one in measured]
    columns = ["target", "p50 ms", "p99 ms", "over direct p50", "over direct p99", "p50 ratio"]
    rows = [_row(one.name, found, spreads[0]) for one, found in zip(measured, spreads, strict=True)]
    return render(columns, rows)


def alone(measured: Sequence[Measured], samples: Callable[[Measured], Sequence[float]]) -> str:
    """p50 and p99 of each target, with nothing to compare them to."""
    rows = [(one.name, spread(samples(one))) for one in measured]
    columns = ["target", "p50 ms", "p99 ms"]
    return render(columns, [[name, ms(found.p50), ms(found.p99)] for name, found in rows])


def paced(measured: Sequence[Measured]) -> str:
    """As `compared`, with the CPU that a delta took in the target's processes."""
    spreads = [spread(one.ages_s) for one in measured]
    columns = ["target", "p50 ms", "p99 ms", "over direct p50", "over direct p99", "CPU us/delta"]
    rows = []
    for one, found in zip(measured, spreads, strict=True):
        cpu = one.cpu_per_delta_s
        rows.append(
            [*_row(one.name, found, spreads[0])[:5], "-" if cpu is None else f"{cpu * 1e6:.0f}"]
        )
    return render(columns, rows)


def _row(name: str, found: Spread, base: Spread) -> list[str]:
    is_base = found is base
    return [
        name,
        ms(found.p50),
        ms(found.p99),
        "-" if is_base else ms(found.p50 - base.p50),
        "-" if is_base else ms(found.p99 - base.p99),
        ratio(found.p50, base.p50),
    ]


def commands(ran: Calls, per: float) -> list[str]:
    """Asked for, run in all, and the most frequent of them."""
    most = ", ".join(f"{name} {count / per:.2f}" for name, count in list(ran.items())[:5])
    return [f"{asked(ran) / per:.2f}", f"{sum(ran.values()) / per:.2f}", most]


def machine() -> str:
    """What it ran on, in the few facts that matter for the figures."""
    cpu = "unknown CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [li for li in info.read_text().splitlines() if li.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{os.cpu_count()} cores ({cpu}), {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, everything over loopback on this one machine, the model and "
        f"the client included. Load at the start: {load}."
    )
