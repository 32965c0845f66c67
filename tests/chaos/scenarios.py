"""The table: which fault, while what runs, and what was promised. And how a row of it is run.

Each scenario asks numbered answers on a cluster, does its fault when they are under way, and judges
every answer; then it asks each conversation once more, for a fault must not harm the turn after it
either. Scenarios of one `Track` share a cluster, one step after the other; those of a step run at
once. A track's cluster must be whole again after each step.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos import faults
from tests.chaos.checker import VISIBLE, Asked, Outcome, Promise, Verdict, check
from tests.chaos.client import ChaosClient, Follow, Telling, chaos_client
from tests.chaos.cluster import Agents, Cluster, Shape, cluster, until
from tests.chaos.faults import Did, Fault, Scene

MARKS = "marks"
"""The file in a workspace that a turn's tool appends its word to."""
COMPLETE = Promise()
AFTER_S = 30.0
"""A conversation that was hit answers again within this long."""


@dataclass(frozen=True)
class Crowd:
    """What is asked while the fault happens."""

    turns: int = 6
    numbers: tuple[int, int] = (60, 120)
    every_ms: tuple[int, int] = (50, 100)
    tools: bool = True
    """Each turn first runs a tool that takes a moment and must run once."""
    follow: Follow = Follow.NOT
    prompt: str | None = None
    """Asked instead of numbers."""
    reached: int = 8
    """The fault comes when each answer has got so far."""
    plain: bool = False
    """The model says the very same again when it is asked again."""


@dataclass(frozen=True)
class Scenario:
    """A row of the table."""

    name: str
    fault: Fault | None
    promise: Promise = COMPLETE
    crowd: Crowd = Crowd()
    around: Promise | None = None
    """For turns that run meanwhile and are not hit; None: the promise is everybody's."""
    play: Callable[[Act], Awaitable[None]] | None = None
    """Instead of crowd and fault: asks and harms in its own way."""
    again: bool = True
    """Each conversation is asked once more, and remembers."""


class Act:
    """One scenario being run."""

    def __init__(
        self, scenario: Scenario, scene: Scene, client: ChaosClient, group: asyncio.TaskGroup
    ) -> None:
        self.scenario = scenario
        self.scene = scene
        self.client = client
        self.promises: dict[str, Promise] = {}
        """Of single turns, by name; else the scenario's."""
        self.complaints: list[str] = []
        """What is wrong beside the answers."""
        self.verdicts: list[Verdict] = []
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def rng(self) -> random.Random:
        return self.scene.rng

    @property
    def cluster(self) -> Cluster:
        return self.scene.cluster

    def ask(self, telling: Telling, promise: Promise | None = None) -> Telling:
        """Begin a turn; it is judged at the end."""
        self.scene.tellings.append(telling)
        if promise is not None:
            self.promises[telling.asked.name] = promise
        self._tasks.append(self._group.create_task(self.client.ask(telling)))
        return telling

    def telling(self, number: int, crowd: Crowd, **more: object) -> Telling:
        """A turn of the crowd, in a conversation of its own."""
        rng = self.rng
        name = f"{self.scenario.name}-{number}"
        mark = f"mark{number}" if crowd.tools and crowd.prompt is None else None
        numbers = rng.randint(*crowd.numbers)
        prompt = crowd.prompt or counting(
            numbers, rng.randint(*crowd.every_ms), mark=mark, rng=rng, plain=crowd.plain
        )
        return Telling(
            Asked(name, 0 if crowd.prompt else numbers, mark),
            prompt,
            conversation=name,
            replica=number,
            follow=crowd.follow,
            **more,  # type: ignore[arg-type]  # named as the fields are
        )

    async def under_way(self, texts: int) -> None:
        """Until each running turn has got so far."""
        for telling in self.scene.tellings:
            await telling.reached(texts)

    async def done(self) -> None:
        """Until every turn asked has its end."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def complain(self, what: str) -> None:
        self.complaints.append(what)

    def judge(self) -> None:
        """Compare every answer with its promise."""
        for telling in self.scene.tellings:
            asked = telling.asked
            marks = None
            if asked.mark:
                lines = self.cluster.lines_of(telling.api_key, telling.conversation, MARKS)
                marks = lines.count(asked.mark)
            promise = self.promises.get(asked.name, self.scenario.promise)
            verdict = check(
                asked,
                telling.attempts,
                promise,
                last_fault_s=self.scene.last_fault_s or None,
                marks=marks,
            )
            self.verdicts.append(verdict)

    async def ask_again(self) -> None:
        """Every conversation answers once more, and knows what it was asked before."""
        before = list(self.scene.tellings)
        async with asyncio.TaskGroup() as group:
            for telling in before:
                group.create_task(self._ask_again(telling))

    async def _ask_again(self, before: Telling) -> None:
        """A client asks again until the service is there again, for as long as was promised."""
        give_up = time.monotonic() + AFTER_S
        history = [
            {"role": "user", "content": before.prompt},
            {"role": "assistant", "content": before.text or "(nothing)"},
        ]
        while True:
            again = Telling(
                Asked(f"{before.asked.name}-again", 0),
                "history",
                before.conversation,
                history=history,
                replica=before.replica + 1,
            )
            await self.client.ask(again)
            if again.outcome is Outcome.COMPLETE or time.monotonic() > give_up:
                break
            await asyncio.sleep(0.5)
        if again.outcome is not Outcome.COMPLETE:
            told = check(again.asked, again.attempts, COMPLETE)
            self.complain(f"the next turn does not work:\n{told.story()}")
        elif before.prompt not in again.text:
            self.complain(f"{again.asked.name} remembers only {again.text[:300]!r}")


def counting(
    numbers: int, every_ms: int, *, mark: str | None, rng: random.Random, plain: bool = False
) -> str:
    """A prompt for numbered deltas, after a tool that takes a moment."""
    prompt = f"stream {numbers} deltas every {every_ms} ms{' plain' if plain else ''}"
    if mark is None:
        return prompt
    tool = f"tool bash sleep {rng.uniform(0.1, 0.5):.1f}; echo {mark} >> /workspace/{MARKS}"
    return f"{tool} then {prompt}"


@dataclass
class Told:
    """What came of a scenario."""

    scenario: str
    seed: int
    verdicts: Sequence[Verdict] = ()
    complaints: Sequence[str] = ()
    schedule: Sequence[Did] = ()
    began_s: float = 0.0
    took_s: float = 0.0

    @property
    def is_kept(self) -> bool:
        return not self.complaints and all(one.is_kept for one in self.verdicts)

    def story(self) -> str:
        """Everything that happened, for replaying it."""
        lines = [
            f"{self.scenario} broke its promise. To replay it:",
            f"  pytest tests/chaos/test_faults.py -k {self.scenario} --chaos-seed={self.seed}",
            "what was done to the cluster, in seconds from the scenario's begin:",
            *(f"  {one.at_s - self.began_s:7.2f}  {one.what}" for one in self.schedule),
            *(f"- {one}" for one in self.complaints),
        ]
        broken = [one for one in self.verdicts if not one.is_kept]
        kept = len(self.verdicts) - len(broken)
        lines += [one.story(since_s=self.began_s) for one in broken]
        return "\n".join([*lines, f"{kept} more answers came as promised"])


# Scenarios that are more than a crowd and a fault


async def hang_up(act: Act) -> None:
    """Clients leave in mid-stream; their agents are interrupted, their conversations free."""
    leaving = Promise(frozenset({Outcome.LEFT}))
    crowd = Crowd(numbers=(400, 400), tools=False)
    for i in range(3):
        act.ask(act.telling(i, crowd, leaves_after=12), leaving)
    await act.done()
    act.scene.did("the clients hung up")


async def slow_reader(act: Act) -> None:
    """One reads nothing for a while and gets everything; its neighbours feel nothing."""
    crowd = Crowd(numbers=(300, 300), every_ms=(20, 20), tools=False)
    act.ask(act.telling(0, crowd, stalls_s=8.0))
    for i in (1, 2):
        act.ask(act.telling(i, crowd), Promise(silence_max_s=2.0))
    await act.done()


async def poison(act: Act) -> None:
    """A turn whose container dies at each start is started twice at most."""
    crowd = Crowd(prompt="crash")
    telling = act.ask(act.telling(0, crowd))
    await act.done()
    starts = act.cluster.lines_of(telling.api_key, telling.conversation, "crashes")
    if not 1 <= len(starts) <= 2:
        act.complain(f"a poison turn was started {len(starts)} times")


async def vanished_container(act: Act) -> None:
    """A container that is killed between two turns is replaced by the next one."""
    telling = act.ask(act.telling(0, Crowd(numbers=(5, 5), tools=False)))
    await act.done()
    owner = await act.cluster.owner_of(telling.api_key, telling.conversation)
    assert owner is not None, "a warm conversation has an owner"
    await faults.kill_container(act.scene, telling, act.cluster.host_of(owner))


async def one_container_killed(act: Act) -> None:
    """Its turn ends with a clear error; those around it feel nothing."""
    crowd = Crowd(turns=4)
    tellings = [act.ask(act.telling(i, crowd)) for i in range(crowd.turns)]
    await act.under_way(crowd.reached)
    victim = act.rng.choice(tellings)
    owner = await act.cluster.owner_of(victim.api_key, victim.conversation)
    assert owner is not None, "a turn that runs has an owner"
    act.promises = {
        one.asked.name: LOST_CONTAINER if one is victim else Promise(silence_max_s=3.0)
        for one in tellings
    }
    await faults.kill_container(act.scene, victim, act.cluster.host_of(owner))


async def host_is_lost(act: Act) -> None:
    """Turns of a machine that is gone end visibly; those of others go on."""
    crowd = Crowd(turns=8, numbers=(100, 140), every_ms=(80, 100))
    tellings = [act.ask(act.telling(i, crowd)) for i in range(crowd.turns)]
    await act.under_way(crowd.reached)
    victim = await act.scene.an_owner()
    host = act.cluster.host_of(victim)
    for telling in tellings:
        owner = await act.cluster.owner_of(telling.api_key, telling.conversation)
        if owner in host.workers:
            act.promises[telling.asked.name] = LOST_HOST
    await host.lose()
    act.scene.did(f"{host.name} is gone")


async def overload(act: Act) -> None:
    """Five times as many turns as slots: all are answered, none is lost."""
    crowd = Crowd(turns=10, numbers=(20, 30), every_ms=(30, 40))
    for i in range(crowd.turns):
        key = f"{act.scenario.name}-tenant-{i % 2}"
        act.ask(act.telling(i, crowd, api_key=f"sk-ant-chaos-{key}"))
    act.scene.did("ten turns for two slots")
    await act.done()


async def impatient_overload(act: Act) -> None:
    """A turn that finds no room in the queue's time is refused with 503 and Retry-After, or by an
    error in its stream.
    """
    long = Crowd(numbers=(260, 260), every_ms=(60, 60), tools=False)
    for i in range(2):
        act.ask(act.telling(i, long), COMPLETE)
    await act.under_way(3)
    act.scene.did("both slots are taken for longer than the queue waits")
    for i in range(2, 4):
        act.ask(act.telling(i, long), NO_ROOM)
    await act.done()


async def crowded_conversation(act: Act) -> None:
    """Turns of one conversation run one after the other; too many are refused with 429."""
    crowd = Crowd(numbers=(10, 10), every_ms=(10, 10), tools=False)
    for i in range(12):
        telling = act.telling(i, crowd)
        telling.conversation = act.scenario.name
        act.ask(telling, Promise(frozenset({Outcome.COMPLETE, Outcome.REFUSED})))
    await act.done()
    refused = sum(one.outcome is Outcome.REFUSED for one in act.scene.tellings)
    if not 3 <= refused <= 4:
        act.complain(f"{refused} of 12 turns were refused; one runs, eight may wait")


async def idle_containers(act: Act) -> None:
    """A container nobody uses is gone within its ttl and 15 s."""
    telling = act.ask(act.telling(0, Crowd(numbers=(5, 5), tools=False)))
    await act.done()
    idle_s = act.cluster.hosts[0].settings.idle_timeout_s
    await _until_gone(act, telling, within_s=idle_s + 15)


async def orphaned_container(act: Act) -> None:
    """A container whose conversation nobody knows is gone within 90 s and a little."""
    telling = act.ask(act.telling(0, Crowd(numbers=(5, 5), tools=False)))
    await act.done()
    key = act.cluster.key_of(telling.api_key, telling.conversation)
    owner = await act.cluster.owner_of(telling.api_key, telling.conversation)
    assert owner is not None, "a warm conversation has an owner"
    await owner.kill()
    keys = act.cluster.store.keys
    await act.cluster.store.redis.delete(keys.conversation(key), keys.lease(key))
    await act.cluster.store.redis.zrem(keys.idle(), key)
    act.scene.did(f"kill -9 {owner.name}, and its conversation is forgotten")
    owner.start()
    await act.cluster.ready()
    await _until_gone(act, telling, within_s=95)


async def _until_gone(act: Act, telling: Telling, *, within_s: float) -> None:
    c = act.cluster.key_of(telling.api_key, telling.conversation)

    async def is_gone() -> bool:
        found = [one for host in act.cluster.hosts for one in await host.containers()]
        return c not in {one.conversation for one in found}

    try:
        await until("the container is gone", is_gone, within_s=within_s)
    except TimeoutError as error:
        act.complain(str(error))


async def emptied(act: Act) -> None:
    """Redis loses everything: running answers end, visibly; new turns work."""
    crowd = Crowd(tools=False)
    for i in range(crowd.turns):
        act.ask(act.telling(i, crowd))
    await act.under_way(crowd.reached)
    await faults.redis_emptied(act.scene)
    await act.done()


# The table

EITHER = frozenset({Outcome.COMPLETE, *VISIBLE})
LOST_CONTAINER = Promise(
    VISIBLE, codes=frozenset({"container_lost", "out_of_memory"}), silence_max_s=10, end_within_s=10
)
LOST_HOST = Promise(EITHER, silence_max_s=31, end_within_s=30)
NO_ROOM = Promise(VISIBLE, codes=frozenset({"queue_timeout"}))
FORGOTTEN = Promise(EITHER, codes=frozenset({"turn_log_lost"}), silence_max_s=25, end_within_s=20)
FOLLOWED = Promise(silence_max_s=8)
REDIS = Promise(silence_max_s=20)
SHORT = Crowd(numbers=(60, 90), every_ms=(50, 80))


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
        "workers",
        Shape(replicas=3, workers=(2, 2)),
        (
            (
                Scenario("client_hangs_up", None, play=hang_up),
                Scenario("slow_reader", None, play=slow_reader),
                Scenario("poison_turn", None, Promise(VISIBLE), play=poison, again=False),
                Scenario("container_vanished", None, play=vanished_container),
                Scenario("container_killed", None, play=one_container_killed),
                Scenario("crowded_conversation", None, play=crowded_conversation, again=False),
            ),
            (Scenario("worker_killed", faults.worker_killed),),
            (Scenario("worker_frozen", faults.worker_frozen),),
            (Scenario("worker_leaves", faults.worker_leaves, Promise(silence_max_s=6)),),
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
            (Scenario("last_workers_leave", faults.last_workers_leave, crowd=SHORT),),
            (
                Scenario(
                    "everything_restarted",
                    faults.everything_restarted,
                    Promise(silence_max_s=10),
                    Crowd(turns=8, numbers=(150, 300), follow=Follow.BY_ID),
                ),
            ),
            (Scenario("host_lost", None, Promise(silence_max_s=3), play=host_is_lost),),
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
            (Scenario("scripts_flushed", faults.scripts_flushed, Promise(silence_max_s=3), SHORT),),
            (Scenario("redis_full", faults.redis_full, Promise(EITHER), SHORT),),
            (Scenario("redis_emptied", None, FORGOTTEN, play=emptied),),
        ),
    ),
    Track(
        "crowded",
        Shape(
            workers=(1,),
            replicas=1,
            settings={"slots": 2, "queue_timeout_s": 10.0, "idle_timeout_s": 6.0},
        ),
        (
            (Scenario("overload", None, play=overload),),
            (Scenario("queue_timeout", None, play=impatient_overload, again=False),),
            (Scenario("idle_container", None, play=idle_containers),),
            (Scenario("orphaned_container", None, play=orphaned_container, again=False),),
        ),
    ),
    Track(
        "agents",
        Shape(Agents.BUBBLEWRAP, workers=(2,), replicas=1),
        (
            (Scenario("real_agents_worker_killed", faults.worker_killed, crowd=Crowd(turns=3)),),
            (
                Scenario(
                    "gateway_killed",
                    faults.gateway_killed,
                    crowd=Crowd(turns=3, plain=True, numbers=(60, 90)),
                ),
            ),
            (
                Scenario(
                    "model_stream_breaks",
                    faults.model_killed,
                    crowd=Crowd(turns=3, plain=True, numbers=(60, 90)),
                ),
            ),
            (Scenario("real_container_killed", None, play=one_container_killed),),
        ),
        ("redis", "bwrap", "sdk"),
    ),
)


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
