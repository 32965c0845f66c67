"""Figures out of samples. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


def quantile(samples: Sequence[float], q: float) -> float:
    """The smallest sample that at least the share `q` of all samples does not exceed.

    Nearest rank, so every figure printed was really seen. Raises `ValueError` for no samples.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[max(0, ceil(q * len(ordered)) - 1)]


@dataclass(frozen=True)
class Spread:
    """The two figures we report of a distribution, in the samples' unit."""

    p50: float
    p99: float
    n: int


def spread(samples: Sequence[float]) -> Spread:
    """Raises `ValueError` for no samples."""
    return Spread(quantile(samples, 0.50), quantile(samples, 0.99), len(samples))
