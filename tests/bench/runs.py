"""Targets take turns, so that a busy minute of the machine falls on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.processes import cpu_s
from tests.bench.streams import Answer
from tests.bench.targets import AT_ONCE, Target

FRESH_LANES = 10_000
"""Lanes from here on are never warmed up."""


@dataclass
class Measured:
    """One target's samples, in seconds."""

    name: str
    first_delta_s: list[float] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    deltas: int = 0

    @property
    def cpu_per_delta_s(self) -> float | None:
        return self.cpu_s / self.deltas if self.deltas and self.cpu_s else None


async def warm_up(targets: Sequence[Target], lanes: int) -> None:
    """Connections, containers and code are warm before anything counts."""
    for target in targets:
        for lane in range(min(lanes, target.lanes_max)):
            await target.ask(AT_ONCE, lane=lane)


async def first_deltas(targets: Sequence[Target], rounds: int) -> list[Measured]:
    """Time to the first delta of answers that begin at once, one stream at a time."""
    measured = [Measured(target.name) for target in targets]
    for turn in range(rounds):
        for i in _rotated(len(targets), turn):
            answer = await targets[i].ask(AT_ONCE, lane=0)
            measured[i].first_delta_s.append(answer.first_delta_s)
    return measured


async def new_conversations(targets: Sequence[Target], rounds: int) -> list[Measured]:
    """Time to the first delta where a container has to start before it."""
    measured = [Measured(target.name) for target in targets]
    for turn in range(rounds):
        for one, target in zip(measured, targets, strict=True):
            answer = await target.ask(AT_ONCE, lane=FRESH_LANES + turn)
            one.first_delta_s.append(answer.first_delta_s)
    return measured


async def paced(
    targets: Sequence[Target], *, streams: int, deltas: int, every_ms: float, rounds: int
) -> list[Measured]:
    """Age of each delta on arrival with `streams` answers at once. Every delta must arrive once."""
    measured = [Measured(target.name) for target in targets]
    for turn in range(rounds):
        for i in _rotated(len(targets), turn):
            prompt = targets[i].paced.format(deltas=deltas, every_ms=every_ms)
            before_s = cpu_s(targets[i].pids)
            answers = await _at_once(targets[i], prompt, streams)
            after_s = cpu_s(targets[i].pids)
            for answer in answers:
                measured[i].ages_s += answer.check(deltas).ages_s
            measured[i].deltas += streams * deltas
            if before_s is not None and after_s is not None:
                measured[i].cpu_s += after_s - before_s
    return measured


async def _at_once(target: Target, prompt: str, streams: int) -> list[Answer]:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(target.ask(prompt, lane=lane)) for lane in range(streams)]
    return [task.result() for task in asked]


def _rotated(count: int, turn: int) -> list[int]:
    """Everybody goes first once."""
    return [(i + turn) % count for i in range(count)]
