"""What an engine proxy counts: a worker's calls of its Docker engine."""

from __future__ import annotations

from infra.metrics.families import counter

ENGINE_CALLS = counter(
    "engine_calls",
    "Calls of the Docker engine by the worker: `passed`, `refused` (nothing a worker needs), "
    "`unanswered` (the engine did not answer).",
    outcome=("passed", "refused", "unanswered"),
)
