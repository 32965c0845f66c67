"""The virtual Redis answers as redis-server does.

Workers, turns and misfortunes are drawn by chance, and happen twice: to a store on the one and to a
store on the other. Every answer and everything that is kept in the end must be the same.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from infra.store.conversations.leases import Lease
from infra.wire.errors import LeaseHeld, LeaseLost
from infra.wire.events import TextDelta, encode_event
from infra.wire.ids import ConversationKey, Fence, TurnId, WorkerId
from infra.wire.states import ConversationState
from tests.contract.store.scene import CANCELLED, DONE, HOST_A, TENANT, Scene
from tests.fakes.virtual_redis import VirtualClient, VirtualRedis

CONVERSATIONS = [ConversationKey(f"{i:024x}") for i in range(3)]
WORKERS = [WorkerId(f"host-a-{i:08x}") for i in range(3)]
EVENTS = 6
STEPS = 200


@dataclass
class Hand:
    """What one worker believes about one conversation."""

    lease: Lease | None = None
    turn: TurnId | None = None


@dataclass
class World:
    scene: Scene
    chance: random.Random
    hands: dict[tuple[WorkerId, ConversationKey], Hand] = field(default_factory=dict)
    asked: dict[ConversationKey, list[TurnId]] = field(default_factory=dict)
    agents: set[TurnId] = field(default_factory=set)
    refused: int = 0
    story: list[str] = field(default_factory=list)
    """Every answer, in words that do not depend on the time."""

    async def step(self) -> None:
        worker, c = self.chance.choice(WORKERS), self.chance.choice(CONVERSATIONS)
        hand = self.hands.setdefault((worker, c), Hand())
        fate = self.chance.random()
        if fate < 0.06:
            await self.ask(c)
        elif fate < 0.12:
            await self.scene.lapse(c)  # Its owner froze for longer than the lease.
        elif fate < 0.14 and self.asked.get(c):
            turn = self.chance.choice(self.asked[c])
            state = await self.scene.store.turns.cancel(turn, tenant=TENANT, reason="chance")
            self.story.append(f"cancelled {turn}: {state}")
        elif fate < 0.16:
            self.hands[worker, c] = Hand()  # The worker process died.
        else:
            await self.work(worker, c, hand)

    async def ask(self, c: ConversationKey) -> None:
        turn = TurnId(f"turn-{sum(map(len, self.asked.values()))}")
        submitted = await self.scene.offer(self.scene.new_turn(c, turn=turn), waiting_max=100)
        self.story.append(f"asked {submitted}")
        self.asked.setdefault(c, []).append(turn)

    async def work(self, worker: WorkerId, c: ConversationKey, hand: Hand) -> None:
        try:
            if hand.lease is None:
                hand.lease = await self.scene.store.leases.acquire(c, worker, HOST_A)
                self.story.append(f"{worker} acquired {c}")
            elif hand.turn is None:
                await self.claim(hand, hand.lease)
            else:
                await self.carry_on(hand, hand.lease, hand.turn)
        except LeaseHeld as held:
            self.story.append(f"{worker} refused {c}: {held.owner} has it")
        except LeaseLost:
            self.refused += 1
            self.story.append(f"{worker} lost {c}")
            hand.lease = hand.turn = None

    async def claim(self, hand: Hand, lease: Lease) -> None:
        claimed = await self.scene.store.turns.claim(lease)
        if claimed is None:
            if self.chance.random() < 0.3:
                waits = await self.scene.store.leases.release(lease, ConversationState.COLD)
                self.story.append(f"released {lease.conversation}: {waits}")
                hand.lease = None
            return
        hand.turn = claimed.record.turn
        record = replace(claimed.record, fence=Fence(0), created_ms=0)
        self.story.append(f"claimed {record} {claimed.is_adoption} {claimed.host}")
        if hand.turn not in self.agents:
            if self.chance.random() < 0.8:
                self.agents.add(hand.turn)
            else:
                await self.requeue(hand, lease, hand.turn)

    async def requeue(self, hand: Hand, lease: Lease, turn: TurnId) -> None:
        """Its container did not start."""
        is_back = await self.scene.store.turns.requeue(lease, turn)
        self.story.append(f"requeued {turn}: {is_back}")
        if not is_back:
            await self.scene.store.turns.finish(lease, turn, 1, CANCELLED, idle_timeout_s=60)
        hand.turn = None

    async def carry_on(self, hand: Hand, lease: Lease, turn: TurnId) -> None:
        """Copy some of the agent's events, from anywhere a confused worker may believe to be."""
        first = self.chance.randint(1, EVENTS + 1)
        page = await self.scene.store.log.read(turn, after=0)
        first = min(first, len(page.events) + 1)
        if first <= EVENTS:
            last = self.chance.randint(first, EVENTS)
            newest = await self.scene.store.log.append(
                lease, turn, [said(n) for n in range(first, last + 1)]
            )
            self.story.append(f"appended {turn}: {newest}")
        else:
            waits = await self.scene.store.turns.finish(
                lease, turn, EVENTS + 1, DONE, idle_timeout_s=60
            )
            self.story.append(f"finished {turn}: {waits}")
            hand.turn = None

    async def settle(self) -> None:
        """Everybody is well again, until nothing is open."""
        self.chance = random.Random(0)
        for c in CONVERSATIONS:
            await self.scene.lapse(c)
            hand = self.hands[WORKERS[0], c] = Hand()
            while any([await self.is_open(turn) for turn in self.asked.get(c, ())]):
                for _ in range(10):
                    await self.work(WORKERS[0], c, hand)

    async def is_open(self, turn: TurnId) -> bool:
        return not (await self.scene.turn_state(turn)).is_terminal


def said(n: int) -> tuple[int, bytes]:
    return n, encode_event(TextDelta(text=f"word {n}"))


async def play(scene: Scene, seed: int) -> World:
    world = World(scene, random.Random(seed))
    for _ in range(STEPS):
        await world.step()
    await world.settle()
    return world


@pytest.mark.parametrize("seed", range(4))
async def test_scripts_answer_alike_on_both(scene: Scene, seed: int) -> None:
    virtual = VirtualRedis(lambda: time.time_ns() // 1000)
    twin = Scene(VirtualClient(virtual), scene.keys)

    there, here = await play(scene, seed), await play(twin, seed)

    assert here.refused > 0, "the schedule put nothing to the test"
    assert here.story == there.story
    assert kept_virtually(virtual) == await kept_really(scene)


async def kept_really(scene: Scene) -> dict[str, Any]:
    found: dict[str, Any] = {}
    redis = scene.redis
    async for name in redis.scan_iter(match=f"{scene.keys.prefix}:*", count=1000):
        match await redis.type(name):
            case b"hash":
                found[name.decode()] = await redis.hgetall(name)  # type: ignore[misc]
            case b"list":
                found[name.decode()] = await redis.lrange(name, 0, -1)  # type: ignore[misc]
            case b"zset":
                found[name.decode()] = {
                    m for m, _ in await redis.zrange(name, 0, -1, withscores=True)
                }
            case b"stream":
                found[name.decode()] = await redis.xrange(name)
            case b"set":
                found[name.decode()] = await redis.smembers(name)  # type: ignore[misc]
            case _:
                found[name.decode()] = await redis.get(name)
    return {name: timeless(value) for name, value in found.items()}


def kept_virtually(virtual: VirtualRedis) -> dict[str, Any]:
    found = {}
    for name in virtual.names():
        value = virtual.peek(name)
        if name.endswith(":events"):
            value = [(id, dict(zip(e[::2], e[1::2], strict=True))) for id, e in value]
        elif isinstance(value, dict) and all(isinstance(part, float) for part in value.values()):
            value = set(value)
        found[name] = timeless(value)
    return found


def timeless(value: Any) -> Any:
    """Times and fences are the only numbers of that size."""
    if isinstance(value, dict):
        return {timeless(key): timeless(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [timeless(part) for part in value]
    if isinstance(value, bytes) and value.isdigit() and len(value) >= 12:
        return b"T"
    return value
