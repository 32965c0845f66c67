"""How a family of metrics is made: named by Prometheus' rules, in base units, with bounded labels.

The modules beside this one declare the families, one module for each part of the system. A program
shows those of the modules that it imports. What has something to count imports the family and
counts: a family is ambient, as a logger is. It costs about a microsecond and needs nobody to look.

A label has a few values that are known beforehand, such as the members of an enum. Nothing that
callers or agents choose is one: no tenant, conversation, host name or model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.registry import CollectorRegistry

disable_created_metrics()  # type: ignore[no-untyped-call]  # as many series again

registry: CollectorRegistry = REGISTRY
"""All families of a process. The library's own adds CPU, memory and open files of the process."""

SHORT_S: Sequence[float] = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
)  # fmt: skip
"""Bounds in seconds for what should take milliseconds, as a call of Redis."""
ANSWER_S: Sequence[float] = (
    0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 40, 60, 120,
)  # fmt: skip
"""Bounds in seconds for what a person waits for."""
WORK_S: Sequence[float] = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
"""Bounds in seconds for a whole turn."""


def counter(name: str, told: str, *, unit: str = "", **labels: Iterable[str]) -> Counter:
    """Something that is counted: `agcluster_<name>_total`.

    `labels` lists each label with all its values. All series exist from the start, with 0: an
    alert on an increase would miss the first one otherwise. A label without values has its series
    when they come.
    """
    made = Counter(name, told, tuple(labels), namespace="agcluster", unit=unit, registry=registry)
    if all(labels.values()):
        _begin(made, labels)
    return made


def gauge(name: str, told: str, *, unit: str = "", **labels: Iterable[str]) -> Gauge:
    """Something that goes up and down: `agcluster_<name>`. Labels are those of `counter`."""
    made = Gauge(name, told, tuple(labels), namespace="agcluster", unit=unit, registry=registry)
    if all(labels.values()):
        _begin(made, labels)
    return made


def histogram(
    name: str, told: str, *, buckets: Sequence[float], **labels: Iterable[str]
) -> Histogram:
    """Seconds that something took: `agcluster_<name>_seconds`. Labels are those of `counter`."""
    made = Histogram(
        name,
        told,
        tuple(labels),
        namespace="agcluster",
        unit="seconds",
        buckets=buckets,
        registry=registry,
    )
    if all(labels.values()):
        _begin(made, labels)
    return made


def _begin(made: Counter | Gauge | Histogram, labels: dict[str, Iterable[str]]) -> None:
    if not labels:
        return
    for values in product(*labels.values()):
        made.labels(*values)
