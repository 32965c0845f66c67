"""A worker whose machine is suspended and resumed, while others go on.

The clock that fenced leases stood still with the machine, so a worker that was suspended between
`start` and the agent gave its agent a turn that had ended in public half a minute before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from infra.runtime.clock import SystemClock, Timer
from infra.wire.ids import HostId
from tests.fakes.manual_clock import timer_of
from tests.fakes.worker_stage import Stage, conversation

C = conversation("one")


class SuspendedClock:
    """Of a machine that `suspend` stops, with all that runs on it, until it is resumed."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._is_awake = asyncio.Event()
        self._is_awake.set()

    def suspend(self) -> None:
        self._is_awake.clear()

    def resume(self, *, after_s: float) -> None:
        self._ahead_s += after_s
        self._is_awake.set()

    async def awake(self) -> None:
        await self._is_awake.wait()

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.awake()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return timer_of(self, seconds, callback)


async def test_a_resumed_worker_gives_no_agent_a_turn_that_has_ended_meanwhile(
    stage: Stage,
) -> None:
    clock, is_suspended = SuspendedClock(), asyncio.Event()
    start = stage.store.turns.start

    async def start_and_sleep(*args: Any, **kwargs: Any) -> None:
        await start(*args, **kwargs)
        if not is_suspended.is_set():
            clock.suspend()
            is_suspended.set()
            await clock.awake()

    stage.store.turns.start = start_and_sleep  # type: ignore[method-assign]
    suspended = await stage.worker(
        host_id=HostId("host-a"), clock=clock, renew_every_s=5.0, beat_every_s=5.0
    )
    turn = await stage.ask(C, "stream 30 every 5 ms")
    await is_suspended.wait()
    await stage.store.workers.leave(suspended.id)
    await stage.worker(host_id=HostId("host-b"))
    await stage.lapse_lease(C)
    end = await stage.ended(turn)
    assert end.error is not None
    [agent] = stage.agents[C]

    clock.resume(after_s=30.0)
    again = await stage.ended(await stage.ask(C, "echo again"))

    assert again.error is None
    assert not [started for started in agent.session.started if started.turn == turn]


def test_our_clock_counts_the_time_a_machine_is_suspended() -> None:
    clock: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    before = time.clock_gettime(clock)
    assert before <= SystemClock().monotonic() <= time.clock_gettime(clock)
