"""What a worker counts: turns, starts of agents, containers and leases."""

from __future__ import annotations

from infra.metrics.families import ANSWER_S, WORK_S, counter, gauge, histogram
from infra.wire.errors import ErrorCode
from infra.wire.states import TurnState
from infra.wire.turns import Lane

_LANES = [lane.value for lane in Lane]
_ENDS = [state.value for state in TurnState if state.is_terminal]

TURNS = counter(
    "turns",
    "Turns that ended here by lane and state.",
    lane=_LANES,
    state=_ENDS,
)
TURN_ERRORS = counter(
    "turn_errors",
    "Turns that ended here with an error, by its code.",
    code=[code.value for code in ErrorCode],
)
TURN_SECONDS = histogram(
    "turn_duration",
    "From a turn's claim by this worker to its end.",
    buckets=WORK_S,
    lane=_LANES,
)
WAIT_SECONDS = histogram(
    "turn_wait",
    "From a turn's request to its claim, by the clocks of Redis and this machine.",
    buckets=ANSWER_S,
    lane=_LANES,
)
ADOPTIONS = counter("turn_adoptions", "Running turns that this worker took over from another one.")
REQUEUES = counter("turn_requeues", "Turns that went back to the queue, because nothing had begun.")
LEASES_LOST = counter("leases_lost", "Conversations that another worker took from this one.")
START_SECONDS = histogram(
    "agent_start",
    "From a turn's request to a phase of its agent's start (docs/reference/metrics.md).",
    buckets=ANSWER_S,
    phase=(),
)
AGENT_STARTS = counter(
    "agent_starts", "Agents that a turn waited for, and whether a spare was ready.",
    source=("spare", "container"),
)  # fmt: skip
CONTAINER_EXITS = counter(
    "container_exits",
    "Containers that ended on their own or were killed: `out_of_memory` or `ended`.",
    cause=("out_of_memory", "ended"),
)
SLOTS = gauge("worker_slots", "Conversations that this worker can have at once.")
SLOTS_USED = gauge("worker_slots_used", "Conversations that this worker has, or is about to have.")
CONVERSATIONS = gauge(
    "worker_conversations",
    "Conversations of this worker: `running` a turn, or `idle` with a container.",
    state=("running", "idle"),
)
SPARES = gauge("worker_spares", "Spares that are ready for conversations.")
HIBERNATIONS = gauge("worker_hibernations", "Containers stopped early for others since the start.")
MEMORY_LEFT = gauge(
    "host_memory_left", "Memory of the host that is available, after what starts have been "
    "promised.", unit="bytes",
)  # fmt: skip
MEMORY_NEEDED = gauge(
    "host_memory_needed", "Memory that has to be available for another container to start.",
    unit="bytes",
)  # fmt: skip
ENGINE_TRUSTED = gauge(
    "engine_trusted", "1 while the container engine answers; 0 while starts are refused."
)
