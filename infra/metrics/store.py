"""What every program with a connection to Redis counts about it."""

from __future__ import annotations

from infra.metrics.families import SHORT_S, counter, histogram

CALLS = histogram(
    "redis_call_duration",
    "Calls of Redis over the shared connection, from the request to its reply.",
    buckets=SHORT_S,
)
SCRIPTS = counter(
    "redis_scripts", "Calls of the store's scripts, by script (`infra/store/lua`).", script=()
)
FAILURES = counter(
    "redis_failures",
    "Calls of Redis that failed: `lost` (the connection, after its retry), `late` (no reply in "
    "time), `other` (an error that Redis replied).",
    kind=("lost", "late", "other"),
)
CONNECTIONS_LOST = counter("redis_connections_lost", "Losses of the shared connection to Redis.")
LIVE_DROPPED = counter(
    "live_events_dropped",
    "Live events that were not published. Their readers find them in the turn log.",
)
DELIVERY_SECONDS = histogram(
    "live_delivery",
    "From the arrival of live events at a replica until they are written to clients that keep up "
    "with reading, for each message of a worker.",
    buckets=SHORT_S,
)
