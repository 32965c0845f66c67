"""What a run found, kept as JSON so that a later run can stand beside it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from tests.bench.field import DIRECT, LITELLM, OURS
from tests.bench.marks import smooth_streams
from tests.bench.report import machine
from tests.bench.section import Figures, Section
from tests.e2e.deployments import ROOT


@dataclass
class Results:
    """One run: where it ran, what it was of, and every figure."""

    machine: str
    commit: str
    day: str
    figures: Figures = field(default_factory=dict)

    def add(self, section: Section) -> None:
        """Its figures."""
        for figure, values in section.figures.items():
            self.figures.setdefault(figure, {}).update(values)

    def conclude(self) -> None:
        """The figures that come of several sections."""
        smooth = {
            target: found
            for target in (DIRECT, LITELLM, OURS)
            if (found := smooth_streams(self.figures, target)) is not None
        }
        if smooth:
            self.figures["streams_smooth"] = smooth

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Raises `OSError`, `ValueError` and `TypeError` for something else."""
        return cls(**json.loads(file.read_text()))

    def headline(self) -> str:
        return f"Commit {self.commit}, {self.day}. {self.machine}"


def of_this_machine() -> Results:
    """Nothing found yet."""
    return Results(machine(), _commit(), time.strftime("%Y-%m-%d", time.gmtime()))


def _commit() -> str:
    """The product's: what the bench itself and its pages have that is not committed is no news."""
    try:
        changed = _git("status", "--porcelain", "--", ".", ":!tests/bench", ":!docs")
        return _git("describe", "--always") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command: Sequence[str] = ("git", "-C", str(ROOT), *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
