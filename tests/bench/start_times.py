"""What a worker's log says about the starts of its agents, phase by phase.

A worker logs one line for each start (`worker.turns.start_timeline`). `read` finds these lines in
the output of a worker, or of `agcluster up`, as text or as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.stats import quantile
from worker.turns.start_timeline import EVENT, StartPhase

_FIELD = re.compile(r"(\w+)=(\S+)")
_MS = "_ms"


@dataclass(frozen=True)
class Start:
    """One start: milliseconds from the request to each phase that was reached."""

    isolation: str
    is_resumed: bool
    reached_ms: Mapping[StartPhase, float]


def read(output: str) -> list[Start]:
    """The starts in a log, in its order."""
    return [_start(told) for line in output.splitlines() if (told := _fields(line))]


def medians(starts: Sequence[Start]) -> dict[StartPhase, float]:
    """When the median start reached each phase, in the order of phases."""
    return {
        phase: quantile(times, 0.5)
        for phase in StartPhase
        if (times := [s.reached_ms[phase] for s in starts if phase in s.reached_ms])
    }


def _fields(line: str) -> Mapping[str, object] | None:
    if EVENT not in line:
        return None
    at = line.find("{")
    if at >= 0:
        told: dict[str, object] = json.loads(line[at:])
        return told if told.get("event") == EVENT else None
    _, found, tail = line.partition(f": {EVENT} ")
    return dict(_FIELD.findall(tail)) if found else None


def _start(told: Mapping[str, object]) -> Start:
    return Start(
        isolation=str(told["isolation"]),
        is_resumed=str(told["resumed"]).lower() == "true",
        reached_ms=dict(_phases(told)),
    )


def _phases(told: Mapping[str, object]) -> Iterator[tuple[StartPhase, float]]:
    for phase in StartPhase:
        if (value := told.get(phase + _MS)) is not None:
            yield phase, float(str(value))
