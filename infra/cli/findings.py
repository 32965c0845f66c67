"""The findings of `agcluster doctor`, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a finding means for `agcluster up`, or for the program of a container."""

    OK = "ok"
    NOTE = "note"
    """It works, but with a limitation."""
    MISSING = "missing"
    """It cannot work."""


@dataclass(frozen=True)
class Finding:
    """The result of one check; `remedy` says what to do about a problem."""

    name: str
    verdict: Verdict
    text: str
    remedy: str | None = None


@dataclass(frozen=True)
class Examination:
    """All findings. `program`: the program of this container; None for `agcluster up`."""

    findings: tuple[Finding, ...]
    program: str | None = None

    @property
    def is_fit(self) -> bool:
        """Whether there is no blocking problem."""
        return all(one.verdict is not Verdict.MISSING for one in self.findings)
