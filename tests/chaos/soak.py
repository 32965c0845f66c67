"""Mixed turns and random faults, for as long as one likes: `python -m tests.chaos.soak --help`.

Clients ask plain, long and tool turns and side requests, in new and old conversations of several
tenants, two at once in one conversation now and then; they cancel, hang up and come back. Meanwhile
one fault after the other is drawn at random. Every answer is checked; at the end nothing may be
left. The report says what was seen; the exit code is 1 when something was lost, doubled, hung or
leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from infra.runtime.lifecycle import stop_signals
from tests.chaos import faults, leaks
from tests.chaos.act import MARKS, counting
from tests.chaos.checker import VISIBLE, Asked, Outcome, Promise, Verdict, check
from tests.chaos.client import KEY, ChaosClient, Follow, Telling, chaos_client
from tests.chaos.cluster import Agents, Cluster, Shape, cluster
from tests.chaos.faults import Did, Fault, Scene

CALM_S = (2.0, 8.0)
"""Between two faults."""
MEMORY_EVERY_S = 5.0
CANARY_EVERY_S = 30.0
TENANTS = 3
REMEMBERED = 40
"""Conversations that may be gone on with."""
SETTLE_S = 180.0
"""An orphan is seen within 30 s, left alone for 60 s more, and stopped in the round after that."""
IDLE_S = 12.0

HONEST = Promise(
    frozenset({Outcome.COMPLETE, Outcome.BROKEN, Outcome.LEFT, *VISIBLE}), silence_max_s=45
)
"""With faults at random an answer may fail, but it says so, and it skips and doubles nothing."""

EVERYWHERE: Sequence[tuple[Fault, int]] = (
    (faults.worker_killed, 4),
    (faults.worker_frozen, 1),
    (faults.worker_leaves, 3),
    (faults.last_workers_leave, 1),
    (faults.replica_killed, 3),
    (faults.replica_leaves, 2),
    (faults.redis_restarted, 3),
    (faults.redis_frozen, 3),
    (faults.redis_cut, 4),
    (faults.redis_black_hole, 2),
    (faults.redis_full, 2),
    (faults.scripts_flushed, 2),
    (faults.redis_emptied, 1),
    (faults.container_killed, 4),
    (faults.memory_low, 4),
)
"""Faults and how often each comes."""
WITH_REAL_AGENTS: Sequence[tuple[Fault, int]] = (
    (faults.gateway_killed, 3),
    (faults.model_streams_break, 3),
)


@dataclass
class Report:
    """What a soak has seen."""

    seed: int
    agents: Agents
    turns: Counter[str] = field(default_factory=Counter)
    """By kind."""
    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken: list[Verdict] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    hung: int = 0
    tools_twice: int = 0
    longest_silence_s: float = 0.0
    leaked: list[str] = field(default_factory=list)
    readable_keys: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """What went wrong with the soak itself."""
    growth_mb: dict[str, float] = field(default_factory=dict)
    tracebacks: dict[str, str] = field(default_factory=dict)
    """By program. A fault may explain one, so they are told and no more."""
    schedule: Sequence[Did] = ()
    began_s: float = 0.0
    took_s: float = 0.0

    @property
    def is_clean(self) -> bool:
        return not (self.broken or self.leaked or self.readable_keys or self.troubles)

    def add(self, kind: str, verdict: Verdict) -> None:
        """Count one answer."""
        self.turns[kind] += 1
        self.outcomes[verdict.outcome] += 1
        if failure := verdict.attempts[-1].failure:
            self.codes[failure.code] += 1
        self.lost += len(verdict.lost)
        self.doubled += len(verdict.doubled)
        self.hung += verdict.outcome in (Outcome.HUNG, Outcome.SILENT)
        self.tools_twice += (verdict.marks or 0) > 1
        self.longest_silence_s = max(self.longest_silence_s, verdict.longest_silence_s)
        if not verdict.is_kept:
            self.broken.append(verdict)

    def render(self) -> str:
        """For people."""
        lines = [
            f"soak of {self.took_s / 60:.1f} minutes with {self.agents} agents, seed {self.seed}",
            f"  turns            {self.turns.total()}: {_counted(self.turns)}",
            f"  outcomes         {_counted(self.outcomes)}",
            f"  errors told      {_counted(self.codes)}",
            f"  faults           {self.faults.total()}: {_counted(self.faults)}",
            f"  numbers lost     {self.lost}",
            f"  numbers doubled  {self.doubled}",
            f"  hung or silent   {self.hung}",
            f"  tools run twice  {self.tools_twice}",
            f"  leaked           {len(self.leaked)}",
            f"  readable keys    {len(self.readable_keys)}",
            f"  longest silence  {self.longest_silence_s:.1f} s",
            f"  memory growth    {_megabytes(self.growth_mb)}",
            *(f"  leaked: {one}" for one in self.leaked),
            *(f"  readable: {one}" for one in self.readable_keys),
            *(f"  trouble: {one}" for one in self.troubles),
            *(f"  tracebacks of {name}: {what}" for name, what in self.tracebacks.items()),
        ]
        if self.broken:
            lines += ["what was done, in seconds from the begin:"]
            lines += [f"  {one.at_s - self.began_s:8.2f}  {one.what}" for one in self.schedule]
            lines += [one.story(since_s=self.began_s) for one in self.broken[:20]]
        return "\n".join(lines)


class Soak:
    """One run on one cluster."""

    def __init__(
        self,
        made: Cluster,
        client: ChaosClient,
        report: Report,
        *,
        end_s: float,
        only: Sequence[str] = (),
    ) -> None:
        self._only = only
        self._cluster = made
        self._client = client
        self._report = report
        self._end_s = end_s
        self._scene = Scene(made, random.Random(f"{report.seed}:faults"))
        self._conversations: list[tuple[str, str]] = []
        """Name and key of those that may be gone on with."""
        report.schedule = self._scene.schedule
        report.began_s = time.monotonic()

    async def run(self, *, clients: int, stop: asyncio.Event) -> None:
        """Until the end or until told to stop; every turn that was begun is waited for."""
        async with asyncio.TaskGroup() as group:
            looking = [
                group.create_task(self._look_at_memory()),
                group.create_task(self._look_for_keys()),
            ]
            asking = [group.create_task(self._ask(i, stop)) for i in range(clients)]
            harming = group.create_task(self._harm(stop))
            await asyncio.wait([*asking, harming])
            for task in looking:
                task.cancel()
        self._report.took_s = time.monotonic() - self._report.began_s

    async def settle(self, *, within_s: float) -> None:
        """See what is left when all is over."""
        report = self._report
        report.leaked += await leaks.leftovers(self._cluster, within_s=within_s)
        report.leaked += [
            f"key without a lifetime {k}" for k in await leaks.immortal_keys(self._cluster)
        ]
        report.readable_keys += await leaks.where_readable(self._cluster, KEY)
        report.tracebacks = leaks.tracebacks(self._cluster)
        for process in self._cluster.processes():
            process.look_at_memory()
            held = process.memory_mb
            if len(held) > 2:
                report.growth_mb[process.name] = held[-1] - held[1]

    def _is_over(self, stop: asyncio.Event) -> bool:
        return stop.is_set() or time.monotonic() > self._end_s

    # Turns

    async def _ask(self, number: int, stop: asyncio.Event) -> None:
        rng = random.Random(f"{self._report.seed}:client-{number}")
        asked = 0
        while not self._is_over(stop):
            asked += 1
            kind = rng.choices(list(_KINDS), [weight for _, weight in _KINDS.values()])[0]
            await self._play(kind, f"{number}-{asked}", rng)
            await asyncio.sleep(rng.uniform(0.0, 0.5))

    async def _play(self, kind: str, name: str, rng: random.Random) -> None:
        crowd = 2 if kind == "at once" else 1
        conversation, key = self._a_conversation(name, rng)
        async with asyncio.TaskGroup() as group:
            for i in range(crowd):
                telling = _telling(kind, f"{name}-{i}", conversation, key, rng)
                group.create_task(self._tell(kind, telling, rng))

    def _a_conversation(self, name: str, rng: random.Random) -> tuple[str, str]:
        if self._conversations and rng.random() < 0.5:
            return rng.choice(self._conversations)
        made = (f"soak-{name}", f"{KEY}-{rng.randrange(TENANTS)}")
        self._conversations = [*self._conversations[-REMEMBERED + 1 :], made]
        return made

    async def _tell(self, kind: str, telling: Telling, rng: random.Random) -> None:
        self._scene.tellings.append(telling)
        if kind == "side":
            await self._client.ask_whole(telling)
        elif kind == "cancelled":
            await self._cancelled(telling, rng)
        else:
            await self._client.ask(telling)
        self._scene.tellings.remove(telling)
        self._report.add(kind, self._judge(telling))

    async def _cancelled(self, telling: Telling, rng: random.Random) -> None:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._client.ask(telling))
            heard = group.create_task(telling.reached(rng.randint(1, 15), within_s=300))
            await asyncio.wait({asking, heard}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() and telling.turn is not None:
                await self._client.cancel(telling)
            heard.cancel()

    def _judge(self, telling: Telling) -> Verdict:
        marks = None
        if word := telling.asked.mark:
            lines = self._cluster.lines_of(telling.api_key, telling.conversation, MARKS)
            marks = lines.count(word)
        return check(telling.asked, telling.attempts, HONEST, marks=marks)

    # Faults and looks

    async def _harm(self, stop: asyncio.Event) -> None:
        drawn = [*EVERYWHERE]
        if self._cluster.shape.agents is not Agents.LIGHT:
            drawn += WITH_REAL_AGENTS
        if self._only:
            drawn = [one for one in drawn if one[0].__name__ in self._only]
        rng = self._scene.rng
        while not self._is_over(stop):
            await asyncio.sleep(rng.uniform(*CALM_S))
            fault = rng.choices([one for one, _ in drawn], [weight for _, weight in drawn])[0]
            if self._is_over(stop) or not self._scene.running():
                continue
            self._report.faults[fault.__name__] += 1
            try:
                await fault(self._scene)
            except Exception as error:  # noqa: BLE001 - a soak goes on, and tells
                self._report.troubles.append(f"{fault.__name__}: {error!r}")

    async def _look_at_memory(self) -> None:
        while True:
            await asyncio.sleep(MEMORY_EVERY_S)
            for process in self._cluster.processes():
                process.look_at_memory()

    async def _look_for_keys(self) -> None:
        """While turns run too: that is when their keys are under way."""
        while True:
            await asyncio.sleep(CANARY_EVERY_S)
            try:
                self._report.readable_keys += await leaks.where_readable(self._cluster, KEY)
            except Exception as error:  # noqa: BLE001 - Redis may be away at this very moment
                print(f"not looked for keys: {error!r}", file=sys.stderr)


_KINDS: dict[str, tuple[tuple[int, int], int]] = {
    "plain": ((10, 40), 40),
    "tool": ((10, 40), 25),
    "long": ((150, 300), 6),
    "side": ((0, 0), 8),
    "cancelled": ((200, 300), 8),
    "left": ((200, 300), 6),
    "at once": ((10, 30), 7),
}
"""How many numbers a kind of turn has, and how often it comes."""


def _telling(kind: str, name: str, conversation: str, key: str, rng: random.Random) -> Telling:
    numbers = rng.randint(*_KINDS[kind][0])
    mark = f"m{name.replace('-', 'x')}" if kind in ("tool", "at once") else None
    prompt = counting(numbers, rng.randint(20, 80), mark=mark, rng=rng, plain=True)
    if kind == "side":
        prompt = "### Task: name this conversation"
    return Telling(
        Asked(name, numbers, mark),
        prompt,
        conversation,
        api_key=key,
        replica=rng.randrange(10),
        follow=rng.choice(list(Follow)) if kind != "left" else Follow.NOT,
        leaves_after=rng.randint(1, 20) if kind == "left" else None,
    )


async def soak(
    *,
    seconds: float,
    seed: int,
    agents: Agents,
    clients: int,
    stop: asyncio.Event | None = None,
    only: Sequence[str] = (),
) -> Report:
    """Start a cluster, run for so long or until told to stop, and take it down.

    `only`: the faults to draw from, by name; none: all.
    """
    report = Report(seed, agents)
    shape = Shape(
        agents=agents,
        workers=(2, 1),
        has_proxy=True,
        # Spares come with the new conversations, and are gone when nobody asks any more.
        settings={
            "idle_timeout_s": IDLE_S,
            "queue_timeout_s": 60.0,
            "spares_min": 0,
            "spares_max": 3,
        },
    )
    async with cluster(shape, name="soak") as made, chaos_client(made.urls) as client:
        run = Soak(made, client, report, end_s=time.monotonic() + seconds, only=only)
        await run.run(clients=clients, stop=stop or asyncio.Event())
        await run.settle(within_s=SETTLE_S)
    return report


async def _until_told(given: argparse.Namespace) -> Report:
    """SIGINT and SIGTERM end it early, and in order."""
    with stop_signals() as stop:
        return await soak(
            seconds=given.minutes * 60,
            seed=given.seed,
            agents=given.agents,
            clients=given.clients or (12 if given.agents is Agents.LIGHT else 4),
            stop=stop,
            only=given.only,
        )


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counts.most_common()) or "none"


def _megabytes(growth: dict[str, float]) -> str:
    return ", ".join(f"{name} {mb:+.1f} MB" for name, mb in growth.items()) or "not measured"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--agents", type=Agents, choices=list(Agents), default=Agents.BUBBLEWRAP)
    parser.add_argument("--clients", type=int, default=0, help="0: as many as the agents allow")
    parser.add_argument("--only", nargs="*", default=(), metavar="FAULT", help="of faults.py")
    given = parser.parse_args()
    report = asyncio.run(_until_told(given))
    print(report.render())
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
