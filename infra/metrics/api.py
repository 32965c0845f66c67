"""What an API replica counts: requests, answers, and how live they are."""

from __future__ import annotations

from infra.metrics.families import ANSWER_S, counter, gauge, histogram
from infra.wire.errors import ErrorCode

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE = "other"

REQUESTS = counter(
    "http_requests",
    "Requests that are over, by the pattern of their path and the status of their answer (0: "
    "there was none). A request without a route of ours has the route `other`.",
    route=(),
    method=(),
    status=(),
)
REQUEST_SECONDS = histogram(
    "http_request_head",
    "From a request's head to the head of its answer, by route.",
    buckets=ANSWER_S,
    route=(),
)
OPEN_REQUESTS = gauge("http_open_requests", "Requests that are being served, streams included.")
HELD_BODIES = gauge(
    "http_held_bodies",
    "Bytes of request bodies, and of what was made of them, until their turns are submitted.",
    unit="bytes",
)
ERRORS = counter(
    "errors_told",
    "Errors that clients were told, as an answer or within a stream, by code.",
    code=[code.value for code in ErrorCode],
)
ANSWERS = counter(
    "answers",
    "Answers of turns by how they ended for their client: `complete` (with the turn's end), "
    "`left` (the client hung up, or was dropped because it read nothing), `cut` (we ended it).",
    ending=("complete", "left", "cut"),
)
STUCK = counter("clients_dropped", "Clients that were dropped because they read nothing.")
FIRST_DELTA_SECONDS = histogram(
    "time_to_first_delta",
    "From the head of a streamed chat request to the first text or thinking for its client.",
    buckets=ANSWER_S,
)
LOG_READS = counter(
    "relay_log_reads",
    "Reads of turn logs by relays: `join` (the first of an answer), `gap` (live events were "
    "missing), `silence` (nothing came for a while).",
    cause=("join", "gap", "silence"),
)
RELAYS_GIVEN_UP = counter(
    "relays_given_up", "Answers that ended because Redis could not be read for too long."
)
KEY_CHECKS = counter(
    "key_checks",
    "Questions to the model's service whether it accepts a caller's key: `accepted`, `refused`, "
    "`unanswered`.",
    verdict=("accepted", "refused", "unanswered"),
)


def count_request(*, route: str | None, method: str, status: int, after_s: float) -> None:
    """A request is over. `route` is the pattern of its path; `after_s` when its answer began."""
    named = route or NO_ROUTE
    said = method if method in METHODS else NO_ROUTE
    REQUESTS.labels(named, said, str(status)).inc()
    if status:
        REQUEST_SECONDS.labels(named).observe(after_s)
