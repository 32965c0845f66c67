"""Schedules drawn by chance, and made as short as they can be when one breaks something."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tests.unit.cluster_model.line import Moment
from tests.unit.cluster_model.world import HOSTS, TROUBLE_S, Ask, Fault, Schedule, Trouble

_COMMON = (
    *[Trouble.FREEZE_AT] * 8,
    *[Trouble.LOSSY] * 2,
    *[Trouble.LOSE_AT] * 2,
    Trouble.KILL_AT,
    Trouble.FREEZE,
    *Trouble,
)
SCRIPTS = (
    *["append"] * 3,
    "acquire",
    "alive",
    "beat",
    "claim",
    "due",
    "finish",
    "hibernate",
    "put_back",
    "reap",
    "release",
    "renew",
    "requeue",
    "start",
    "take",
    "unclaimed",
    "update",
)
"""All that workers of the model run."""
_WILD = (
    *[Trouble.FREEZE_AT] * 6,
    *[Trouble.LOSSY] * 4,
    *[Trouble.LOSE_AT] * 3,
    *[Trouble.SUSPEND_AT] * 3,
    *[Trouble.KILL_AT] * 3,
    *[Trouble.LEAVE] * 2,
    *Trouble,
)
_WARM = (
    *[Trouble.RETIRE] * 3,
    *[Trouble.LEAVE] * 2,
    *[Trouble.KILL] * 3,
    *[Trouble.CANCEL] * 6,
    *[Trouble.CONTAINER_DIES] * 2,
    *[Trouble.FREEZE] * 3,
    *Trouble,
)
_WALLS_AHEAD_S = (0.0, 0.5, -0.5, 3600.0, -3600.0)
_WHOLE_ONE_IN = 5
"""Schedules that are followed until nothing is left; that takes twice as long."""


_SHORT_ONE_IN = 3
"""Schedules on hosts whose memory is always low."""


def drawn(seed: int) -> Schedule:
    """Turns and faults; the seed also decides everything the schedule leaves open."""
    chance = random.Random(seed)
    conversations = chance.choice((1, 1, 3))
    return Schedule(
        seed=seed,
        asks=tuple(_ask(chance, conversations) for _ in range(chance.randint(2, 6))),
        faults=tuple(_fault(chance, _COMMON) for _ in range(chance.randint(2, 8))),
        bad_starts=chance.choice((0.0, 0.0, 0.0, 0.3, 1.0)),
        is_to_the_end=seed % _WHOLE_ONE_IN == 0,
        has_little_memory=seed % _SHORT_ONE_IN == 1,
        walls_ahead_s=_walls(chance),
    )


def wild(seed: int) -> Schedule:
    """More turns and more faults, always followed to the end."""
    chance = random.Random(f"wild {seed}")
    conversations = chance.choice((1, 2, 3))
    return Schedule(
        seed=seed,
        asks=tuple(_ask(chance, conversations) for _ in range(chance.randint(3, 12))),
        faults=tuple(_fault(chance, _WILD) for _ in range(chance.randint(5, 16))),
        bad_starts=chance.choice((0.0, 0.0, 0.2, 0.6)),
        is_to_the_end=True,
        has_little_memory=seed % _SHORT_ONE_IN == 1,
        walls_ahead_s=_walls(chance),
    )


def warm(seed: int) -> Schedule:
    """Many short turns of one or two conversations, most of which find them warm: their submit
    begins them, while their owners freeze, leave, retire and die."""
    chance = random.Random(f"warm {seed}")
    conversations = chance.choice((1, 1, 2))
    asks = (_ask(chance, conversations) for _ in range(chance.randint(8, 16)))
    short = chance.choice((0.05, 0.3))
    return Schedule(
        seed=seed,
        asks=tuple(replace(ask, events=min(ask.events, 4), every_s=short) for ask in asks),
        faults=tuple(_fault(chance, _WARM) for _ in range(chance.randint(2, 8))),
        is_to_the_end=seed % _WHOLE_ONE_IN == 0,
    )


def _walls(chance: random.Random) -> tuple[float, float, float]:
    first, second, third = chance.choices(_WALLS_AHEAD_S, k=3)
    return first, second, third


def _ask(chance: random.Random, conversations: int) -> Ask:
    return Ask(
        at_s=_moment(chance, before_s=10),
        conversation=chance.randrange(conversations),
        events=chance.randint(1, 12),
        every_s=chance.choice((0.05, 0.3, 1.0, 2.0)),
        is_hinted=chance.random() < 0.8,
    )


def _fault(chance: random.Random, troubles: Sequence[Trouble]) -> Fault:
    # Shorter than the self-fencing, around the lease, and longer than everything.
    spell = chance.choice(((0.5, 5), (9, 17), (16, 30)))
    return Fault(
        at_s=_moment(chance, before_s=5),
        trouble=chance.choice(troubles),
        who=chance.randrange(len(HOSTS)),
        for_s=round(chance.uniform(*spell), 1),
        script=chance.choice(SCRIPTS),
        moment=chance.choice(tuple(Moment)),
    )


def _moment(chance: random.Random, *, before_s: float) -> float:
    return round(chance.uniform(0, TROUBLE_S - before_s), 1)


def shortest(schedule: Schedule, breaks: Callable[[Schedule], bool]) -> Schedule:
    """Without the turns and faults that are not needed to break it."""
    while True:
        shorter = next(filter(breaks, _shorter(schedule)), None)
        if shorter is None:
            return schedule
        schedule = shorter


def _shorter(schedule: Schedule) -> Iterator[Schedule]:
    for i in range(len(schedule.faults)):
        yield replace(schedule, faults=schedule.faults[:i] + schedule.faults[i + 1 :])
    for i in range(len(schedule.asks)):
        yield replace(schedule, asks=schedule.asks[:i] + schedule.asks[i + 1 :])


def told(schedule: Schedule) -> str:
    """To be read, and to be pasted into `World(...)`."""
    steps: list[Ask | Fault] = [*schedule.asks, *schedule.faults]
    steps.sort(key=lambda step: step.at_s)
    return "\n".join([f"seed {schedule.seed}: {schedule!r}", *(f"  {step}" for step in steps)])
