"""A scenario while it is run: what it asks, what it notes, and how it is judged."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.chaos.checker import Asked, Outcome, Promise, Verdict, check
from tests.chaos.client import ChaosClient, Follow, Telling
from tests.chaos.cluster import Cluster
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
    chat: str | None = None
    """Conversations that other scenarios have asked before, and are warm; else its own."""
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
        mark = f"{self.scenario.name}_{number}" if crowd.tools and crowd.prompt is None else None
        numbers = rng.randint(*crowd.numbers)
        prompt = crowd.prompt or counting(
            numbers, rng.randint(*crowd.every_ms), mark=mark, rng=rng, plain=crowd.plain
        )
        return Telling(
            Asked(name, 0 if crowd.prompt else numbers, mark),
            prompt,
            conversation=f"{crowd.chat or self.scenario.name}-{number}",
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
