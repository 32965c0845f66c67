"""What a gateway counts: the ways out of a host's containers."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from infra.metrics.families import ANSWER_S, WORK_S, counter, gauge, histogram
from infra.wire.events import Usage
from infra.wire.gateway import UpstreamError
from infra.wire.model.upstream import STATUS_OF_KIND

MODEL_CALLS = counter(
    "model_calls",
    "Calls of the model's service by the class of its status: `2xx`, `4xx`, `5xx`, or "
    "`unanswered` (not reached, or given up before its answer).",
    status=("2xx", "4xx", "5xx", "unanswered"),
)
MODEL_HEAD_SECONDS = histogram(
    "model_call_head",
    "From a call of the model's service to the head of its answer.",
    buckets=ANSWER_S,
)
MODEL_ANSWER_SECONDS = histogram(
    "model_answer_duration",
    "From the head of an answer of the model's service to its end.",
    buckets=WORK_S,
)
TOKENS = counter(
    "model_tokens",
    "Tokens of model calls as the model's service reported them, or estimated if it did not.",
    kind=("input", "output", "cache_read", "cache_creation"),
)
UPSTREAM_ERRORS = counter(
    "upstream_errors",
    "Errors of the model's service: `rate_limited`, `overloaded`, `authentication`, `refused` "
    "(another 4xx), `failed` (another 5xx), `broken` (a stream broke off), `unreachable`.",
    kind=(
        "rate_limited", "overloaded", "authentication", "refused", "failed", "broken",
        "unreachable",
    ),
)  # fmt: skip
MODEL_REFUSALS = counter(
    "model_call_refusals",
    "Calls of agents that the gateway refused itself, by the type of the error that it told.",
    kind=sorted(STATUS_OF_KIND),
)
EGRESS = counter(
    "egress_decisions",
    "Connections that agents' tools asked for: `allowed`, `mcp` (to an MCP server), `denied` (by "
    "the policy), `limited` (too many, or too fast), `unreachable`, `malformed`.",
    decision=("allowed", "mcp", "denied", "limited", "unreachable", "malformed"),
)
EGRESS_BYTES = counter(
    "egress",
    "Bytes of the connections of agents' tools.",
    unit="bytes",
    direction=("sent", "received"),
)
SESSIONS = gauge("gateway_sessions", "Conversations of this host that the gateway listens for.")

_FIGURES = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_creation": "cache_creation_input_tokens",
}
_ERRORS: Mapping[int, str] = {
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
    529: "overloaded",
    HTTPStatus.UNAUTHORIZED: "authentication",
    HTTPStatus.FORBIDDEN: "authentication",
}
_BROKEN = "stream_broken"
_REFUSED: Mapping[int, str] = {
    HTTPStatus.FORBIDDEN: "denied",
    HTTPStatus.TOO_MANY_REQUESTS: "limited",
    HTTPStatus.BAD_GATEWAY: "unreachable",
}


def count_answer(*, status: int, usage: Usage, error: UpstreamError | None) -> None:
    """A call is over that the model's service has answered."""
    MODEL_CALLS.labels(f"{status // 100}xx" if status >= HTTPStatus.BAD_REQUEST else "2xx").inc()
    count_tokens(usage)
    if error is not None:
        UPSTREAM_ERRORS.labels(_kind_of(error)).inc()


def count_unanswered(usage: Usage, *, is_unreachable: bool) -> None:
    """A call is over that was not answered. `usage` is estimated."""
    MODEL_CALLS.labels("unanswered").inc()
    count_tokens(usage)
    if is_unreachable:
        UPSTREAM_ERRORS.labels("unreachable").inc()


def count_tokens(usage: Usage) -> None:
    """What a call has used."""
    for kind, field in _FIGURES.items():
        TOKENS.labels(kind).inc(getattr(usage, field))


def count_egress_refusal(status: int) -> None:
    """A connection of a tool was refused with this status."""
    EGRESS.labels(_REFUSED.get(status, "malformed")).inc()


def _kind_of(error: UpstreamError) -> str:
    if error.kind == _BROKEN:
        return "broken"
    if known := _ERRORS.get(error.status):
        return known
    return "failed" if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"
