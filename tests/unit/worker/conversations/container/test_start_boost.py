"""A container has more CPUs while its agent starts, and its usual ones from its first event on."""

from __future__ import annotations

from redis.asyncio import Redis

from infra.wire.errors import ContainerFailed
from tests.fakes.memory_host import MemoryHost
from tests.fakes.worker_stage import Stage, conversation, eventually
from worker.hosts.host import ContainerId

C = conversation("one")


class RefusingHost(MemoryHost):
    """Refuses to limit a container at first."""

    refusals = 1
    asked = 0

    async def limit_cpus(self, id: ContainerId, cpus: float) -> None:
        self.asked += 1
        if self.asked <= self.refusals:
            raise ContainerFailed("not now")
        await super().limit_cpus(id, cpus)


async def test_its_first_event_ends_the_start_and_later_turns_change_nothing(
    stage: Stage,
) -> None:
    host = RefusingHost(stage.machine)
    host.refusals = 0
    await stage.worker(host=host)
    await stage.ended(await stage.ask(C, "echo one"))
    await eventually(lambda: bool(stage.machine.cpus))
    await stage.ended(await stage.ask(C, "echo two"))

    assert list(stage.machine.cpus.values()) == [1.0]
    assert host.asked == 1


async def test_a_limit_that_failed_is_set_with_the_next_turn(stage: Stage) -> None:
    host = RefusingHost(stage.machine)
    await stage.worker(host=host)
    assert (await stage.ended(await stage.ask(C, "echo one"))).error is None
    await eventually(lambda: host.asked == 1)
    assert not stage.machine.cpus

    await stage.ended(await stage.ask(C, "echo two"))
    await eventually(lambda: list(stage.machine.cpus.values()) == [1.0])


async def test_without_a_difference_nobody_is_asked(redis: Redis) -> None:
    async with Stage(redis, container_start_cpus=1.0) as stage:
        host = RefusingHost(stage.machine)
        await stage.worker(host=host)
        for prompt in ("echo one", "echo two"):
            await stage.ended(await stage.ask(C, prompt))
        assert host.asked == 0
