"""The table: which fault, while what runs, and what was promised. And how its rows are run.

Each scenario asks numbered answers on a cluster, does its fault when they are under way, and judges
every answer; then it asks each conversation once more, for a fault must not harm the turn after it
either. Scenarios of one `Track` share a cluster, one step after the other; those of a step run at
once. A track's cluster must be whole again after each step.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tests.chaos import faults, plays
from tests.chaos.act import Act, Crowd, Scenario, Told
from tests.chaos.checker import VISIBLE, Promise
from tests.chaos.client import ChaosClient, Follow, chaos_client
from tests.chaos.cluster import Agents, Shape, cluster
from tests.chaos.faults import Did, Scene
from tests.chaos.plays import AGENTS, EITHER, FOLLOWED, FORGOTTEN, REDIS, SHORT, UPSTREAM


@dataclass(frozen=True)
class Track:
    """Scenarios on one cluster: steps one after the other, each step's at once."""

    name: str
    shape: Shape
    steps: Sequence[Sequence[Scenario]]
    parts: tuple[str, ...] = ("redis",)
    """What the machine must have."""


TRACKS: Sequence[Track] = (
    Track(
        "pool",
        Shape(workers=(2,), settings={"spares_min": 1, "spares_max": 3}),
        (
            (Scenario("pool_worker_killed", faults.worker_killed),),
            (Scenario("pool_worker_frozen", faults.worker_frozen),),
            (Scenario("pool_worker_leaves", faults.worker_leaves, Promise(silence_max_s=8)),),
        ),
    ),
    Track(
        "workers",
        Shape(replicas=3, workers=(2, 2)),
        (
            (
                Scenario("client_hangs_up", None, play=plays.hang_up),
                Scenario("slow_reader", None, play=plays.slow_reader),
                Scenario("poison_turn", None, Promise(VISIBLE), play=plays.poison, again=False),
                Scenario("container_vanished", None, play=plays.vanished_container),
                Scenario("container_killed", None, play=plays.one_container_killed),
                Scenario(
                    "crowded_conversation", None, play=plays.crowded_conversation, again=False
                ),
            ),
            (Scenario("worker_killed", faults.worker_killed),),
            (Scenario("worker_frozen", faults.worker_frozen),),
            (Scenario("memory_low", None, play=plays.memory_comes_and_goes),),
            (Scenario("worker_killed_hibernating", None, play=plays.killed_while_it_hibernates),),
            (Scenario("worker_leaves", faults.worker_leaves, Promise(silence_max_s=8)),),
            (
                Scenario(
                    "replica_killed",
                    faults.replica_killed,
                    FOLLOWED,
                    Crowd(follow=Follow.BY_ID),
                ),
            ),
            (
                Scenario(
                    "replica_killed_and_asked_again",
                    faults.replica_killed,
                    FOLLOWED,
                    Crowd(follow=Follow.BY_KEY),
                ),
            ),
            (
                Scenario(
                    "replica_leaves",
                    faults.replica_leaves,
                    FOLLOWED,
                    Crowd(numbers=(100, 140), follow=Follow.BY_ID),
                ),
            ),
            (
                Scenario(
                    "last_workers_leave",
                    faults.last_workers_leave,
                    Promise(silence_max_s=45),
                    SHORT,
                ),
            ),
            (
                Scenario(
                    "everything_restarted",
                    faults.everything_restarted,
                    Promise(silence_max_s=10),
                    Crowd(turns=8, numbers=(150, 300), follow=Follow.BY_ID),
                ),
            ),
            (Scenario("host_lost", None, Promise(silence_max_s=6), play=plays.host_is_lost),),
        ),
    ),
    Track(
        "redis",
        Shape(workers=(2,), has_proxy=True),
        (
            (Scenario("redis_restarted", faults.redis_restarted, REDIS, SHORT),),
            (Scenario("redis_cut", faults.redis_cut, REDIS, SHORT),),
            (Scenario("redis_frozen", faults.redis_frozen, REDIS, SHORT),),
            (Scenario("redis_black_hole", faults.redis_black_hole, REDIS, SHORT),),
            (Scenario("redis_frozen_long", faults.redis_frozen_long, REDIS, SHORT),),
            (Scenario("scripts_flushed", faults.scripts_flushed, Promise(silence_max_s=6), SHORT),),
            (Scenario("redis_full", faults.redis_full, Promise(EITHER), SHORT),),
            (Scenario("redis_emptied", None, FORGOTTEN, play=plays.emptied),),
        ),
    ),
    Track(
        "sentinels",
        Shape(workers=(1,), replicas=1, has_sentinels=True),
        ((Scenario("redis_fails_over", faults.redis_fails_over, Promise(EITHER), SHORT),),),
    ),
    Track(
        "crowded",
        Shape(
            workers=(1,),
            replicas=1,
            settings={"slots": 2, "queue_timeout_s": 10.0, "idle_timeout_s": 6.0},
        ),
        (
            (Scenario("overload", None, play=plays.overload),),
            (Scenario("queue_timeout", None, play=plays.impatient_overload, again=False),),
            (Scenario("idle_container", None, play=plays.idle_containers),),
            (Scenario("orphaned_container", None, play=plays.orphaned_container, again=False),),
        ),
    ),
    Track(
        "agents",
        Shape(Agents.BUBBLEWRAP, workers=(2,), replicas=1),
        # A real agent's start is what costs the most here, so all ask the same few.
        (
            (Scenario("agents_worker_killed", faults.worker_killed, crowd=AGENTS, again=False),),
            (Scenario("gateway_killed", faults.gateway_killed, crowd=AGENTS, again=False),),
            (
                # Asked again it says other words: the answer has to go on from the shown ones.
                Scenario(
                    "model_stream_breaks",
                    faults.model_streams_break,
                    crowd=replace(AGENTS, plain=False),
                    again=False,
                ),
            ),
            (Scenario("model_away", faults.model_killed, UPSTREAM, crowd=AGENTS, again=False),),
            (Scenario("agents_container_killed", None, play=plays.one_agents_container_killed),),
        ),
        ("redis", "bwrap", "sdk"),
    ),
)


AIMED = frozenset(
    {
        faults.worker_killed,
        faults.worker_frozen,
        faults.worker_leaves,
        faults.last_workers_leave,
        faults.replica_killed,
        faults.replica_leaves,
    }
)
"""Faults that must hit somebody."""


# Running them


async def run_tracks(
    wanted: frozenset[str], *, seed: int, tracks: Sequence[Track] = TRACKS
) -> Mapping[str, Told]:
    """Run these scenarios, the tracks at once; what came of each."""
    told: dict[str, Told] = {}
    async with asyncio.TaskGroup() as group:
        for track in tracks:
            steps = [[one for one in step if one.name in wanted] for step in track.steps]
            if any(steps):
                group.create_task(_run_track(track, [one for one in steps if one], seed, told))
    return told


async def _run_track(
    track: Track, steps: Sequence[Sequence[Scenario]], seed: int, told: dict[str, Told]
) -> None:
    try:
        async with cluster(track.shape, name=track.name) as made, chaos_client(made.urls) as client:
            schedule: list[Did] = []
            for step in steps:
                async with asyncio.TaskGroup() as group:
                    for scenario in step:
                        rng = random.Random(f"{seed}:{scenario.name}")
                        scene = Scene(made, rng, schedule)
                        group.create_task(_run(scenario, scene, client, seed, told))
    except Exception as error:  # noqa: BLE001 - told, with the cluster's name
        # A cluster that cannot be started or ended is the failure of all its scenarios.
        for scenario in (one for step in steps for one in step):
            failed = told.setdefault(scenario.name, Told(scenario.name, seed))
            failed.complaints = [*failed.complaints, f"the cluster {track.name}: {error!r}"]


async def _run(
    scenario: Scenario, scene: Scene, client: ChaosClient, seed: int, told: dict[str, Told]
) -> None:
    began_s = time.monotonic()
    done_before = len(scene.schedule)
    async with asyncio.TaskGroup() as group:
        act = Act(scenario, scene, client, group)
        try:
            await _play(scenario, act)
        except Exception as error:  # noqa: BLE001 - told, with the schedule
            # Whatever goes wrong in a scenario is its failure, not that of its neighbours.
            act.complain(f"the scenario itself failed: {error!r}")
        await act.done()
    act.judge()
    if scenario.again:
        await act.ask_again()
    told[scenario.name] = Told(
        scenario.name,
        seed,
        act.verdicts,
        act.complaints,
        scene.schedule[done_before:],
        began_s,
        time.monotonic() - began_s,
    )


async def _play(scenario: Scenario, act: Act) -> None:
    if scenario.play is not None:
        await scenario.play(act)
        return
    assert scenario.fault is not None, "a scenario has a fault or plays its own"
    crowd = scenario.crowd
    for i in range(crowd.turns):
        act.ask(act.telling(i, crowd))
    await act.under_way(crowd.reached)
    await scenario.fault(act.scene)
    if scenario.fault in AIMED and not act.scene.hits:
        act.complain("the fault hit nobody: this shows nothing")
