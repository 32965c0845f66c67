"""What a run has to say, printed as it comes, and what it ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


class Report:
    """Sections of Markdown, printed as they come."""

    def add(self, text: str) -> None:
        print(text, end="\n\n", flush=True)


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
