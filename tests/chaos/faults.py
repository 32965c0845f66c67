"""What can be done to a cluster. Each fault harms one thing, tells so, and mends what it harmed.

A fault is a function of a `Scene`; it returns when the cluster is whole again, so that scenarios
can follow one another and a soak can draw them at random. Whom it hits is decided by the scene's
seeded generator.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from infra.store.conversations.leases import LEASE_S
from tests.chaos.checker import Outcome
from tests.chaos.client import Telling
from tests.chaos.cluster import LEAVE_S, PLENTY_MB, Cluster, Host
from tests.chaos.processes import Process
from tests.fakes.redis_proxy import Way

LOW_MB, SHORT_MB = 1400, 800
"""Available memory with which idle conversations go, and with which nothing new may start either
(the marks of agents with 1024 MB each are 1480 and 1280)."""


@dataclass(frozen=True)
class Did:
    """Something was done to the cluster."""

    at_s: float
    what: str


@dataclass
class Scene:
    """A cluster, the turns that run on it, and who is to be hit."""

    cluster: Cluster
    rng: random.Random
    schedule: list[Did] = field(default_factory=list)
    """Everything that was done, by whomever; shared by the scenes of a cluster."""
    tellings: list[Telling] = field(default_factory=list)
    last_fault_s: float = 0.0
    hits: int = 0
    """How many running turns the chosen victims served."""

    def did(self, what: str) -> None:
        """Note a deed for the story."""
        self.last_fault_s = time.monotonic()
        self.schedule.append(Did(self.last_fault_s, what))

    def running(self) -> list[Telling]:
        """Turns whose client has heard something and still reads."""
        return [one for one in self.tellings if one.heard and one.outcome is Outcome.HUNG]

    async def an_owner(self, among: Sequence[Process] | None = None) -> Process:
        """A worker that owns a conversation of the scene; any running one if none does."""
        wanted = [one for one in among or self.cluster.workers() if one.is_running]
        owners = [await self.cluster.owner_of(t.api_key, t.conversation) for t in self.running()]
        owning = [one for one in wanted if one in owners and not one.is_frozen]
        victim = self.rng.choice(owning or wanted)
        self.hits += owners.count(victim)
        return victim

    async def a_container(self) -> tuple[Telling, Host] | None:
        """A running turn's, and the machine it is on; None while no such turn has an owner."""
        running = self.running()
        for telling in self.rng.sample(running, len(running)):
            owner = await self.cluster.owner_of(telling.api_key, telling.conversation)
            if owner is not None:
                return telling, self.cluster.host_of(owner)
        return None


Fault = Callable[[Scene], Awaitable[None]]


# Workers


async def worker_killed(scene: Scene) -> None:
    """`kill -9`; its supervisor starts it again a moment later."""
    victim = await scene.an_owner()
    await victim.kill()
    scene.did(f"kill -9 {victim.name}, which had {scene.hits} of the running turns")
    await asyncio.sleep(scene.rng.uniform(0.2, 3.0))
    await _start_again(scene, victim)


async def worker_frozen(scene: Scene) -> None:
    """Frozen for longer than its lease, then it goes on as if nothing had been."""
    victim = await scene.an_owner()
    victim.freeze()
    scene.did(f"SIGSTOP {victim.name}")
    await asyncio.sleep(LEASE_S + scene.rng.uniform(6.0, 8.0))
    victim.thaw()
    scene.did(f"SIGCONT {victim.name}")
    await scene.cluster.ready()


async def worker_leaves(scene: Scene) -> None:
    """SIGTERM while another worker of its host stays."""
    victim = await scene.an_owner(
        [one for host in scene.cluster.hosts if _awake(host) > 1 for one in host.workers]
    )
    await _leave(scene, victim)
    await _start_again(scene, victim)


async def last_workers_leave(scene: Scene) -> None:
    """SIGTERM to every worker of a host; their successors come a moment after they have gone."""
    host = scene.cluster.host_of(await scene.an_owner())
    async with asyncio.TaskGroup() as group:
        for one in host.workers:
            group.create_task(_leave(scene, one))
    await asyncio.sleep(scene.rng.uniform(0.0, 1.0))
    for one in host.workers:
        await _start_again(scene, one)


async def host_lost(scene: Scene) -> None:
    """All of a machine is gone at once, and does not come back."""
    host = scene.cluster.host_of(await scene.an_owner())
    await host.lose()
    scene.did(f"{host.name} is gone")


# Machines


async def memory_low(scene: Scene) -> None:
    """Something else on the machines takes their memory for a while: what is idle goes, and in
    the worst case nothing new starts until it is back."""
    available_mb = scene.rng.choice((LOW_MB, SHORT_MB))
    for host in scene.cluster.hosts:
        host.has_memory(available_mb)
    scene.did(f"the machines have {available_mb} MB left")
    await asyncio.sleep(scene.rng.uniform(3.0, 8.0))
    for host in scene.cluster.hosts:
        host.has_memory(PLENTY_MB)
    hibernated = sum(one.hibernated for one in await scene.cluster.store.workers.alive())
    scene.did(f"memory is back; the workers hibernated {hibernated} conversations until now")


# API replicas


async def replica_killed(scene: Scene) -> None:
    """`kill -9` in the middle of its streams."""
    victim = _a_replica(scene)
    await victim.kill()
    scene.did(f"kill -9 {victim.name}")
    await asyncio.sleep(scene.rng.uniform(0.2, 2.0))
    await _start_again(scene, victim)


async def replica_leaves(scene: Scene) -> None:
    """SIGTERM in the middle of its streams."""
    victim = _a_replica(scene)
    await _leave(scene, victim)
    await _start_again(scene, victim)


async def everything_restarted(scene: Scene) -> None:
    """A rolling deploy: each program leaves and comes back, on each host one after the other."""
    hosts = scene.cluster.hosts
    waves = [list(wave) for wave in zip(*(host.workers for host in hosts), strict=False)]
    waves += [[one] for one in (*_gateways(scene.cluster), *scene.cluster.replicas)]
    for wave in waves:
        async with asyncio.TaskGroup() as group:
            for one in wave:
                group.create_task(_restart(scene, one))


# Redis


async def redis_restarted(scene: Scene) -> None:
    """Every connection breaks; its data stays."""
    scene.did("redis restarts")
    await scene.cluster.redis.restart()
    scene.did("redis is back")


async def redis_frozen(scene: Scene) -> None:
    """Connections stay and nothing answers."""
    await _redis_frozen(scene, scene.rng.uniform(2.0, 4.0))


async def redis_frozen_long(scene: Scene) -> None:
    """Longer than a command may take, and long enough for workers to fence themselves."""
    await _redis_frozen(scene, scene.rng.uniform(11.0, 13.0))


async def _redis_frozen(scene: Scene, seconds: float) -> None:
    scene.cluster.redis.freeze()
    scene.did("redis is frozen")
    await asyncio.sleep(seconds)
    scene.cluster.redis.thaw()
    scene.did("redis goes on")


async def redis_cut(scene: Scene) -> None:
    """Every connection is reset, again and again."""
    assert scene.cluster.proxy is not None
    for _ in range(scene.rng.randint(3, 6)):
        scene.did(f"{scene.cluster.proxy.cut()} connections to redis cut")
        await asyncio.sleep(scene.rng.uniform(0.05, 0.8))


async def redis_black_hole(scene: Scene) -> None:
    """Nothing passes and nothing breaks, both ways or one."""
    assert scene.cluster.proxy is not None
    ways = scene.rng.choice([(), (Way.TO_CLIENT,), (Way.TO_SERVER,)])
    scene.cluster.proxy.black_hole(*ways)
    scene.did(f"a black hole before redis {' '.join(ways) or 'both ways'}")
    await asyncio.sleep(scene.rng.uniform(6.0, 8.0))
    scene.cluster.proxy.cut()
    scene.cluster.proxy.heal()
    scene.did("the black hole is gone, its connections are cut")


async def scripts_flushed(scene: Scene) -> None:
    """Redis forgets every script."""
    await scene.cluster.store.redis.script_flush()
    scene.did("SCRIPT FLUSH")


async def redis_full(scene: Scene) -> None:
    """For some seconds Redis takes no new data."""
    await scene.cluster.store.redis.config_set("maxmemory", 1)
    scene.did("redis is full")
    await asyncio.sleep(scene.rng.uniform(3.0, 5.0))
    await scene.cluster.store.redis.config_set("maxmemory", 0)
    scene.did("redis has room")


async def redis_fails_over(scene: Scene) -> None:
    """The primary dies, the Sentinels make the replica the primary, and the old one comes back."""
    watched = scene.cluster.sentinels
    assert watched is not None, "only a cluster with Sentinels fails over"
    await watched.in_sync()
    dead = await watched.kill_primary()
    scene.did("redis' primary is killed")
    await watched.failed_over()
    scene.did("the replica is the primary")
    watched.revive(dead)


async def redis_emptied(scene: Scene) -> None:
    """All data is gone, while everything else goes on."""
    await scene.cluster.store.redis.flushall()
    scene.did("FLUSHALL")


# What agents need


async def gateway_killed(scene: Scene) -> None:
    """`kill -9`; its supervisor starts it again."""
    (victim, *_) = scene.rng.sample(_gateways(scene.cluster), 1)
    await victim.kill()
    scene.did(f"kill -9 {victim.name}")
    await asyncio.sleep(scene.rng.uniform(0.2, 1.0))
    await _start_again(scene, victim)


async def model_streams_break(scene: Scene) -> None:
    """Every stream of the upstream is reset; it can be asked again at once."""
    between = scene.cluster.model_proxy
    assert between is not None, "only real agents have a model"
    scene.did(f"{between.cut()} streams of the model are reset")


async def model_killed(scene: Scene) -> None:
    """The upstream breaks every stream and is away for a moment."""
    model = scene.cluster.model
    assert model is not None, "only real agents have one"
    await model.kill()
    scene.did("the model's server is gone")
    await asyncio.sleep(0.2)
    await _start_again(scene, model)


async def container_killed(scene: Scene) -> None:
    """One running turn's container is killed; which one, the schedule says."""
    if found := await scene.a_container():
        await kill_container(scene, *found)


async def kill_container(scene: Scene, telling: Telling, host: Host) -> None:
    """Kill a conversation's container, as the kernel would."""
    c = scene.cluster.key_of(telling.api_key, telling.conversation)
    await host.kill_container(c)
    scene.did(f"the container of {telling.asked.name} is killed")


# Small parts


async def _leave(scene: Scene, one: Process) -> None:
    one.terminate()
    scene.did(f"SIGTERM {one.name}")
    await one.wait(within_s=LEAVE_S)
    scene.did(f"{one.name} has left")


async def _restart(scene: Scene, one: Process) -> None:
    await _leave(scene, one)
    await _start_again(scene, one)


async def _start_again(scene: Scene, one: Process) -> None:
    one.start()
    await scene.cluster.ready(one)
    scene.did(f"{one.name} is back")


def _a_replica(scene: Scene) -> Process:
    """One that serves a running turn."""
    replicas = scene.cluster.replicas
    serving = [replicas[t.replica % len(replicas)] for t in scene.running()]
    victim = scene.rng.choice([one for one in serving if one.is_running] or replicas)
    scene.hits += serving.count(victim)
    return victim


def _gateways(cluster: Cluster) -> list[Process]:
    return [host.gateway for host in cluster.hosts if host.gateway]


def _awake(host: Host) -> int:
    return sum(one.is_running and not one.is_frozen for one in host.workers)
