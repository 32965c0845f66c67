"""Figures of the whole cluster, which only the exporter shows: a figure that each replica showed
would be added up as often as there are replicas."""

from __future__ import annotations

from infra.metrics.families import gauge
from infra.wire.states import WorkerState

UP = gauge("cluster_up", "1 if Redis answered the exporter's last question, otherwise 0.")
TURNS_OPEN = gauge("cluster_turns_open", "Turns that have not ended, waiting ones included.")
TURNS_WAITING = gauge("cluster_turns_waiting", "Turns that wait for a worker.")
OLDEST_WAITING = gauge(
    "cluster_oldest_waiting", "How long the longest of these has waited.", unit="seconds"
)
TENANTS_WAITING = gauge("cluster_tenants_waiting", "Tenants with turns that wait for a worker.")
SIDE_HINTS = gauge("cluster_side_hints", "Side turns that no worker has looked at yet.")
IDLE = gauge("cluster_idle_conversations", "Conversations with a container and without a turn.")
WORKERS = gauge(
    "cluster_workers", "Live workers by state.", state=[state.value for state in WorkerState]
)
HOSTS = gauge("cluster_hosts", "Hosts with a live worker.")
SLOTS = gauge("cluster_slots", "Conversations that all ready workers can have at once.")
SLOTS_USED = gauge("cluster_slots_used", "Conversations that they have.")
REPLICAS = gauge("cluster_api_replicas", "API replicas that listen for answers.")
FILE_STORES = gauge(
    "cluster_file_stores", "File stores in use. More than one means that programs disagree."
)
REDIS_USED = gauge("redis_used_memory", "Memory that Redis uses.", unit="bytes")
REDIS_MAX = gauge("redis_max_memory", "Its limit; 0: none.", unit="bytes")
REDIS_CLIENTS = gauge("redis_clients", "Connections to Redis.")
REDIS_EVICTED = gauge(
    "redis_evicted_keys", "Keys that Redis has dropped for lack of memory since it started."
)
REDIS_REJECTED = gauge(
    "redis_rejected_connections", "Connections that Redis has refused since it started."
)
REDIS_DURABLE = gauge(
    "redis_last_write_ok",
    "1 if the last write of the append-only file and the last snapshot went well, otherwise 0.",
)
