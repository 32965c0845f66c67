"""Generates `docs/reference/metrics.md` from the families that the programs declare.

`python -m infra.reference.metrics [--write|--check]` from the repository's root.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from infra.reference.generated import command, wrapped

PAGE = Path("docs/reference/metrics.md")
HEAD = """\
# Metrics

Each program shows its metrics in Prometheus' format at `/metrics`, on a port of its own, if
`AGCLUSTER_METRICS_PORT` is set ([operations.md](operations.md#metrics)). A label has few values,
all known beforehand. Nothing that callers or agents choose is a label: no tenant, no
conversation, no name of a host or model. Counters count since their process started. Each program
also shows `process_…` (CPU, memory, open files) and `python_…`. Generated from `infra/metrics/`:
`make docs`.
"""
PARTS = (
    ("api", "API replicas"),
    ("worker", "Workers"),
    ("gateway", "Gateways"),
    ("engine_proxy", "Engine proxies"),
    ("store", "Every program with a connection to Redis"),
    ("files", "Every program with the file store"),
    ("cluster", "The exporter: the cluster as a whole"),
)
_KINDS = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}


def page() -> str:
    """The text of the page."""
    lines = [HEAD.rstrip()]
    for name, title in PARTS:
        module = import_module(f"infra.metrics.{name}")
        lines += ["", f"## {title}", (module.__doc__ or "").strip().split("\n\n", maxsplit=1)[0]]
        lines.append("")
        lines += [_entry(family) for family in families(f"infra.metrics.{name}")]
    return "\n".join(lines) + "\n"


def families(module: str) -> Iterator[MetricWrapperBase]:
    """The families that a module declares, in its order."""
    for value in vars(import_module(module)).values():
        if isinstance(value, MetricWrapperBase):
            yield value


def shown_name(family: MetricWrapperBase) -> str:
    """The name that Prometheus stores."""
    name = next(iter(family.describe())).name
    return f"{name}_total" if isinstance(family, Counter) else name


def _entry(family: MetricWrapperBase) -> str:
    kind = next(word for made, word in _KINDS.items() if isinstance(family, made))
    labels = "".join(f", `{label}`" for label in family._labelnames)
    told = f"`{shown_name(family)}` ({kind}{labels}): {family._documentation}"
    return wrapped(told, item="- ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page, or write or check it."""
    return command(
        lambda: {PAGE: page()},
        printed=page,
        program="infra.reference.metrics",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
