"""`agcluster status`: what it thinks of a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.cli.ops.status import StatusVerdict, judged
from infra.cli.ops.words import a_size, a_while, plural
from infra.store.overview import ClusterOverview, RedisHealth
from infra.store.placement.workers import WorkerRecord
from infra.wire.ids import HostId, WorkerId
from infra.wire.states import WorkerState

BAD, LOOK = StatusVerdict.BAD, StatusVerdict.LOOK

MB = 1_000_000
WORKER = WorkerRecord(
    worker=WorkerId("w"), host=HostId("h"), pid=1, version="1", slots=4, used=1,
    state=WorkerState.READY, started_ms=0, memory_mb=4000, memory_needed_mb=1000, upstream="ok",
)  # fmt: skip
REDIS = RedisHealth(
    version="7.2", eviction_policy="noeviction",
    used_bytes=100 * MB, max_bytes=1000 * MB, evicted_keys=0, clients=9,
    rejected_connections=0, has_append_file=True, last_write_ok=True, replicas=0,
)  # fmt: skip
FINE = ClusterOverview(
    unix_ms=0, redis=REDIS, workers=[WORKER], replicas=2, turns_open=1, turns_waiting=0,
    oldest_waiting_s=0, tenants_waiting=0, idle=3, side_hints=0, file_stores=1,
)  # fmt: skip


def verdicts(seen: ClusterOverview) -> dict[str, StatusVerdict]:
    return {line.part: line.verdict for line in judged(seen)}


def test_a_healthy_cluster_in_words() -> None:
    assert [f"{line.verdict} {line.part}: {line.says}" for line in judged(FINE)] == [
        "ok redis: Redis 7.2, 100.0 MB used of 1.0 GB (10%)",
        "ok redis' disk: append-only file, written without errors",
        "ok api: 2 replicas listening",
        "ok workers: 1 ready on 1 host",
        "ok model: the model's service answers",
        "ok queue: no turn waits for a worker",
        "ok slots: 1 turn running, 3 idle, 1 of 4 slots used",
    ]


@pytest.mark.parametrize(
    ("seen", "part", "verdict", "says"),
    [
        (replace(FINE, workers=[]), "workers", BAD, "no worker lives"),
        (replace(FINE, replicas=0), "api", BAD, "no API replica listens"),
        (
            replace(FINE, workers=[replace(WORKER, state=WorkerState.FAILING)]),
            "workers", BAD, "1 failing on 1 host",
        ),
        (
            replace(FINE, workers=[WORKER, replace(WORKER, state=WorkerState.FAILING)]),
            "workers", LOOK, "1 failing, 1 ready on 1 host",
        ),
        (
            replace(FINE, workers=[replace(WORKER, upstream="api.example.org name")]),
            "model", BAD, "api.example.org does not answer: its name is not known",
        ),
        (
            replace(FINE, workers=[WORKER, replace(WORKER, upstream="api.example.org refused")]),
            "model", LOOK, "api.example.org does not answer: it refuses the connection",
        ),
        (
            replace(FINE, redis=replace(REDIS, used_bytes=850 * MB)),
            "redis", LOOK, "Redis 7.2, 850.0 MB used of 1.0 GB (85%)",
        ),
        (
            replace(FINE, redis=replace(REDIS, used_bytes=990 * MB)),
            "redis", BAD, "Redis 7.2, 990.0 MB used of 1.0 GB (99%)",
        ),
        (
            replace(FINE, redis=replace(REDIS, eviction_policy="allkeys-lru")),
            "redis", LOOK, "Redis 7.2, 100.0 MB used of 1.0 GB (10%), allkeys-lru",
        ),
        (
            replace(FINE, redis=replace(REDIS, evicted_keys=2)),
            "redis", BAD, "Redis 7.2, 100.0 MB used of 1.0 GB (10%), 2 keys evicted",
        ),
        (
            replace(FINE, redis=replace(REDIS, last_write_ok=False)),
            "redis' disk", BAD, "Redis could not write its data to the disk",
        ),
        (
            replace(FINE, redis=replace(REDIS, has_append_file=False)),
            "redis' disk", LOOK, "no append-only file: a restart loses conversations",
        ),
        (
            replace(FINE, turns_waiting=2, tenants_waiting=1, oldest_waiting_s=200),
            "queue", LOOK, "2 turns of 1 tenant waiting, the oldest for 3 min",
        ),
        (
            replace(FINE, workers=[replace(WORKER, used=4)]),
            "slots", LOOK, "1 turn running, 3 idle, 4 of 4 slots used",
        ),
        (
            replace(FINE, workers=[replace(WORKER, memory_mb=10)]),
            "memory", LOOK, "no memory for another agent on h",
        ),
        (
            replace(FINE, file_stores=2),
            "files", BAD, "programs use 2 different file stores",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(
    seen: ClusterOverview, part: str, verdict: StatusVerdict, says: str
) -> None:
    (line,) = (line for line in judged(seen) if line.part == part)
    assert (line.verdict, line.says) == (verdict, says)
    assert line.do


def test_a_new_cluster_is_not_judged_for_what_it_cannot_know() -> None:
    assert (
        verdicts(replace(FINE, workers=[replace(WORKER, upstream="")]))["model"] is StatusVerdict.OK
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (7300, "2 h"), (90000, "1 d")],
)
def test_a_time_in_words(seconds: float, words: str) -> None:
    assert a_while(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (3 * 10**12, "3.0 TB")]
)
def test_a_size_in_words(count: int, words: str) -> None:
    assert a_size(count) == words


def test_one_and_many() -> None:
    assert (plural(1, "turn"), plural(0, "turn")) == ("1 turn", "0 turns")
