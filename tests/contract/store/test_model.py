"""Workers die, freeze and come back at random; every log comes out exact all the same.

A model of lease, fence, numbered log and the agent that keeps its events: in each step one worker
does one thing a worker does, under whatever lease it believes to have, or fate strikes. The order
is drawn from a seed, so a failure can be replayed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from infra.store.leases import Lease
from infra.store.turns import ATTEMPTS_MAX
from infra.wire.errors import LeaseHeld, LeaseLost
from infra.wire.events import TextDelta, encode_event, is_end
from infra.wire.ids import ConversationKey, TurnId, WorkerId
from infra.wire.states import ConversationState, TurnState
from tests.contract.store.scene import CANCELLED, DONE, HOST_A, TENANT, Scene

CONVERSATIONS = [ConversationKey(f"{i:024x}") for i in range(3)]
WORKERS = [WorkerId(f"host-a-{i:08x}") for i in range(3)]
EVENTS = 6
STEPS = 600


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
    started: Counter[TurnId] = field(default_factory=Counter)
    """Agents started: what must never happen too often."""
    agents: set[TurnId] = field(default_factory=set)
    refused: int = 0
    fences: dict[ConversationKey, int] = field(default_factory=dict)

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
            await self.scene.store.turns.cancel(turn, tenant=TENANT, reason="chance")
        elif fate < 0.16:
            self.hands[worker, c] = Hand()  # The worker process died.
        else:
            await self.work(worker, c, hand)

    async def ask(self, c: ConversationKey) -> None:
        submitted = await self.scene.offer(self.scene.new_turn(c), waiting_max=100)
        self.asked.setdefault(c, []).append(submitted.turn)

    async def work(self, worker: WorkerId, c: ConversationKey, hand: Hand) -> None:
        try:
            if hand.lease is None:
                hand.lease = await self.scene.store.leases.acquire(c, worker, HOST_A)
                assert hand.lease.fence >= self.fences.get(c, 0), "a fence went back"
                self.fences[c] = hand.lease.fence
            elif hand.turn is None:
                await self.claim(hand, hand.lease)
            else:
                await self.carry_on(hand, hand.lease, hand.turn)
        except LeaseHeld:
            pass
        except LeaseLost:
            self.refused += 1
            hand.lease = hand.turn = None

    async def claim(self, hand: Hand, lease: Lease) -> None:
        claimed = await self.scene.store.turns.claim(lease)
        if claimed is None:
            if self.chance.random() < 0.3:
                await self.scene.store.leases.release(lease, ConversationState.COLD)
                hand.lease = None
            return
        hand.turn = claimed.record.turn
        if hand.turn not in self.agents:
            self.started[hand.turn] += 1
            if self.chance.random() < 0.8:
                self.agents.add(hand.turn)
            else:
                await self.requeue(hand, lease, hand.turn)

    async def requeue(self, hand: Hand, lease: Lease, turn: TurnId) -> None:
        """Its container did not start."""
        if not await self.scene.store.turns.requeue(lease, turn):
            await self.scene.store.turns.finish(lease, turn, 1, CANCELLED, idle_timeout_s=1)
        hand.turn = None

    async def carry_on(self, hand: Hand, lease: Lease, turn: TurnId) -> None:
        """Copy some of the agent's events, from anywhere a confused worker may believe to be."""
        first = self.chance.randint(1, EVENTS + 1)
        page = await self.scene.store.log.read(turn, after=0)
        first = min(first, len(page.events) + 1)
        if first <= EVENTS:
            last = self.chance.randint(first, EVENTS)
            await self.scene.store.log.append(
                lease, turn, [said(n) for n in range(first, last + 1)]
            )
        else:
            await self.scene.store.turns.finish(lease, turn, EVENTS + 1, DONE, idle_timeout_s=1)
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


@pytest.mark.parametrize("seed", range(8))
async def test_logs_are_exact_whatever_happens_to_workers(fake_scene: Scene, seed: int) -> None:
    world = World(fake_scene, random.Random(seed))
    for _ in range(STEPS):
        await world.step()
    await world.settle()

    assert world.refused > 0, "the schedule put nothing to the test"
    assert (await fake_scene.store.turns.counts())["open"] == 0
    for turn in (turn for turns in world.asked.values() for turn in turns):
        page = await fake_scene.store.log.read(turn, after=0)
        assert page.state is not None
        assert page.state.is_terminal
        numbers = [n for n, _ in page.events]
        assert numbers == list(range(1, len(numbers) + 1)), "a gap or a double"
        assert [is_end(e) for _, e in page.events] == [False] * (len(numbers) - 1) + [True]
        assert list(page.events[:-1]) == [said(n) for n in numbers[:-1]]
        if page.state is TurnState.DONE:
            assert len(numbers) == EVENTS + 1
        record = await fake_scene.store.turns.get(turn)
        assert record is not None
        assert record.sealed_key is None
        assert world.started[turn] <= ATTEMPTS_MAX
