"""What `agcluster doctor` has found, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a finding means for `agcluster up`, or for the program of a container."""

    OK = "ok"
    NOTE = "note"
    """It runs, but something is less than it could be."""
    MISSING = "missing"
    """It cannot run."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` says what to do when it is not well."""

    name: str
    verdict: Verdict
    text: str
    remedy: str | None = None


@dataclass(frozen=True)
class Examination:
    """All findings. `program`: whose container this is; None where `agcluster up` is meant."""

    findings: tuple[Finding, ...]
    program: str | None = None

    @property
    def is_fit(self) -> bool:
        """Whether nothing stands in the way."""
        return all(one.verdict is not Verdict.MISSING for one in self.findings)
