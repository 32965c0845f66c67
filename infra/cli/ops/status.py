"""`agcluster status`: the cluster at a glance, with a verdict for each part and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

import typer

from infra.cli.ops.cluster import Json, print_json, with_store
from infra.cli.ops.words import a_size, a_while, plural
from infra.cli.terminal import say
from infra.runtime.settings import Settings
from infra.store.open import Store
from infra.store.overview import ClusterOverview
from infra.wire.model.upstream_cause import UpstreamCause
from infra.wire.states import WorkerState
from infra.wire.text.words import WHY_AWAY

FULL, NEARLY_FULL = 0.95, 0.8
"""Shares of Redis' memory from which on it is bad, and worth a look."""
LONG_WAIT_S = 60.0
"""A turn that has waited this long is worth a look."""


class StatusVerdict(StrEnum):
    """What to think of a part."""

    OK = "ok"
    LOOK = "look"
    """Nothing has failed yet."""
    BAD = "bad"


EXIT_CODES = {StatusVerdict.OK: 0, StatusVerdict.LOOK: 1, StatusVerdict.BAD: 2}


@dataclass(frozen=True)
class StatusLine:
    """One part of the cluster."""

    part: str
    verdict: StatusVerdict
    says: str
    do: str = ""
    """What to do about it; empty if nothing."""


def status(as_json: Json = False) -> None:
    """Show the cluster at a glance, with verdicts. Exits with 0 (ok), 1 (look) or 2 (bad)."""

    async def work(store: Store, _: Settings) -> None:
        lines = list(judged(await store.overview.read()))
        worst = max((line.verdict for line in lines), key=list(StatusVerdict).index)
        if as_json:
            print_json({"verdict": worst, "parts": [asdict(line) for line in lines]})
        else:
            _print(lines)
        raise typer.Exit(EXIT_CODES[worst])

    with_store(work)


def judged(seen: ClusterOverview) -> Iterator[StatusLine]:
    """A line for each part. Pure."""
    yield _redis(seen)
    yield _durability(seen)
    yield _replicas(seen)
    yield from _workers(seen)
    yield _upstream(seen)
    yield _queue(seen)
    yield _work(seen)
    if seen.file_stores > 1:
        yield StatusLine(
            "files", StatusVerdict.BAD, f"programs use {seen.file_stores} different file stores",
            "give all of them the same AGCLUSTER_FILE_STORE",
        )  # fmt: skip


def _redis(seen: ClusterOverview) -> StatusLine:
    redis = seen.redis
    used = a_size(redis.used_bytes)
    says = f"Redis {redis.version}, {used} used"
    says += f" of {a_size(redis.max_bytes)} ({redis.fullness:.0%})" if redis.max_bytes else ""
    if redis.evicted_keys:
        return StatusLine(
            "redis", StatusVerdict.BAD, f"{says}, {plural(redis.evicted_keys, 'key')} evicted",
            "set maxmemory-policy to noeviction: conversations and leases may be lost",
        )  # fmt: skip
    if redis.max_bytes and redis.eviction_policy != "noeviction":
        return StatusLine(
            "redis", StatusVerdict.LOOK, f"{says}, {redis.eviction_policy}",
            "set maxmemory-policy to noeviction, or it drops conversations when it is full",
        )  # fmt: skip
    if redis.fullness >= FULL:
        return StatusLine(
            "redis", StatusVerdict.BAD, says, "raise maxmemory, or delete conversations"
        )
    if redis.fullness >= NEARLY_FULL:
        return StatusLine("redis", StatusVerdict.LOOK, says, "raise maxmemory before it is full")
    return StatusLine("redis", StatusVerdict.OK, says)


def _durability(seen: ClusterOverview) -> StatusLine:
    redis = seen.redis
    if not redis.last_write_ok:
        return StatusLine(
            "redis' disk", StatusVerdict.BAD, "Redis could not write its data to the disk",
            "look at its log and at the free space of its disk",
        )  # fmt: skip
    if not redis.has_append_file:
        return StatusLine(
            "redis' disk", StatusVerdict.LOOK, "no append-only file: a restart loses conversations",
            "appendonly yes, appendfsync everysec",
        )  # fmt: skip
    return StatusLine("redis' disk", StatusVerdict.OK, "append-only file, written without errors")


def _replicas(seen: ClusterOverview) -> StatusLine:
    if not seen.replicas:
        return StatusLine(
            "api", StatusVerdict.BAD, "no API replica listens", "start one: agcluster api"
        )
    return StatusLine("api", StatusVerdict.OK, f"{plural(seen.replicas, 'replica')} listening")


def _workers(seen: ClusterOverview) -> Iterator[StatusLine]:
    states = seen.workers_by_state
    if not seen.workers:
        yield StatusLine(
            "workers", StatusVerdict.BAD, "no worker lives", "start one: agcluster worker"
        )
        return
    said = ", ".join(f"{count} {state.value}" for state, count in sorted(states.items()))
    says = f"{said} on {plural(seen.hosts, 'host')}"
    if not states.get(WorkerState.READY):
        yield StatusLine(
            "workers", StatusVerdict.BAD, says, "see their logs; `agcluster doctor` on their hosts"
        )
    elif states.get(WorkerState.FAILING):
        hosts = sorted({w.host for w in seen.workers if w.state is WorkerState.FAILING})
        yield StatusLine(
            "workers", StatusVerdict.LOOK, says,
            f"containers do not start on {', '.join(hosts)}: `agcluster doctor` there",
        )  # fmt: skip
    else:
        yield StatusLine("workers", StatusVerdict.OK, says)
    short = sorted(
        {
            w.host
            for w in seen.workers
            if w.memory_mb is not None and w.memory_mb < w.memory_needed_mb
        }
    )
    if short:
        yield StatusLine(
            "memory", StatusVerdict.LOOK, f"no memory for another agent on {', '.join(short)}",
            "add a host, or lower AGCLUSTER_CONTAINER_MEMORY_MB",
        )  # fmt: skip


def _upstream(seen: ClusterOverview) -> StatusLine:
    known = {worker.upstream for worker in seen.workers if worker.upstream}
    away = sorted(known - {"ok"})
    if not known:
        return StatusLine("model", StatusVerdict.OK, "nothing is known of the model's service yet")
    if not away:
        return StatusLine("model", StatusVerdict.OK, "the model's service answers")
    causes = {cause.value: cause for cause in UpstreamCause}
    host, _, cause = away[0].partition(" ")
    why = WHY_AWAY[causes.get(cause, UpstreamCause.BROKEN)]
    verdict = StatusVerdict.LOOK if "ok" in known else StatusVerdict.BAD
    return StatusLine(
        "model", verdict, f"{host} does not answer: {why}",
        "check the name, the network and the proxy of the gateway's host",
    )  # fmt: skip


def _queue(seen: ClusterOverview) -> StatusLine:
    if not seen.turns_waiting:
        return StatusLine("queue", StatusVerdict.OK, "no turn waits for a worker")
    turns, tenants = plural(seen.turns_waiting, "turn"), plural(seen.tenants_waiting, "tenant")
    says = f"{turns} of {tenants} waiting, the oldest for {a_while(seen.oldest_waiting_s)}"
    if seen.oldest_waiting_s >= LONG_WAIT_S:
        return StatusLine(
            "queue", StatusVerdict.LOOK, says, "add a worker; `agcluster turns waiting` lists them"
        )
    return StatusLine("queue", StatusVerdict.OK, says)


def _work(seen: ClusterOverview) -> StatusLine:
    running = seen.turns_open - seen.turns_waiting
    slots = sum(w.slots for w in seen.workers if w.state is WorkerState.READY)
    used = sum(w.used for w in seen.workers if w.state is WorkerState.READY)
    says = f"{plural(running, 'turn')} running, {seen.idle} idle, {used} of {slots} slots used"
    if slots and used >= slots:
        return StatusLine(
            "slots", StatusVerdict.LOOK, says, "add a worker, or raise AGCLUSTER_SLOTS"
        )
    return StatusLine("slots", StatusVerdict.OK, says)


def _print(lines: list[StatusLine]) -> None:
    width = max(len(line.part) for line in lines)
    for line in lines:
        say(f"{line.verdict:<4}  {line.part:<{width}}  {line.says}")
        if line.do:
            say(f"{'':<4}  {'':<{width}}  → {line.do}")
