"""What a tiny turn of a warm conversation asks of Redis, in counts: against regressions."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from infra.store.access.limits import SubmitLimits
from infra.store.conversations.leases import Lease
from infra.store.conversations.transcripts import RawEntry, RawPart
from infra.store.keys import Keys
from infra.store.turns.history import TurnBase
from infra.store.turns.turns import NewTurn
from infra.wire.events import Event, TextDelta, TurnStarted, encode_event
from infra.wire.ids import ReaderId, TurnId
from infra.wire.link import BaseKind
from tests.contract.store.listening import Listener
from tests.contract.store.scene import DONE, TENANT, W1, C, Scene, scene_at
from tests.fakes.redis_server import RealRedis

pytestmark = pytest.mark.redis

_Answer = TypeVar("_Answer")
RETENTION_S = 7 * 86400.0
BOUNDED = SubmitLimits(
    turns_waiting_max=8,
    queue_max=100,
    tenant_turns_max=100,
    tenant_queue_max=100,
    tenant_budget_tokens=10**9,
    tenant_bytes_max=10**9,
)
UNBOUNDED = SubmitLimits(turns_waiting_max=8)
_OURS = frozenset({"info", "config", "client", "hello", "auth", "select", "subscribe", "ping"})


class Counted:
    """A conversation, and how many commands each step of its turns ran, scripts' own included."""

    def __init__(self, scene: Scene, limits: SubmitLimits) -> None:
        self.scene = scene
        self.limits = limits
        self.commands: dict[str, int] = {}
        self._lease: Lease | None = None
        self._turns = 0

    async def turn(self) -> None:
        """One turn: asked for, (claimed, started,) logged, its transcript kept, finished."""
        store, n = self.scene.store, self._turns
        self._turns += 1
        new = self._new(n)
        turn, base = new.request.turn, TurnBase(kind=BaseKind.CONTINUE, keep=n, known=n, digest="d")
        await self._step(
            "submit", store.turns.submit(new, limits=self.limits, retention_s=RETENTION_S)
        )
        if self._lease is None:
            self._lease = await self.scene.acquire()
            await self.scene.claim(self._lease)
            await self.scene.warm_up(self._lease)
            await store.turns.start(self._lease, turn, base=base)
        lease = self._lease
        said: list[Event] = [
            TurnStarted(sdk_session="session-1", model="m"),
            TextDelta(text="Hello"),
        ]
        events = [(i, encode_event(event)) for i, event in enumerate(said, 1)]
        await self._step("append", store.log.append(lease, turn, events))
        await self._step("transcript", store.transcripts.append(lease, "session-1", part(turn)))
        ended = store.turns.finish(
            lease, turn, 3, DONE, idle_timeout_s=60, digest="d", base=base if n else None
        )
        await self._step("finish", ended)

    def _new(self, n: int) -> NewTurn:
        new = self.scene.new_turn(is_thin=True, sent=(f"{n:016x}",), label="a chat")
        return replace(new, idempotency=f"digest-{n}", reader=ReaderId(f"api-1 {n}"))

    async def _step(self, name: str, asked: Awaitable[_Answer]) -> _Answer:
        before = await self._ran()
        answer = await asked
        self.commands[name] = await self._ran() - before
        return answer

    async def _ran(self) -> int:
        stats: dict[str, Any] = await self.scene.redis.info("commandstats")
        ran = (
            figures["calls"]
            for name, figures in stats.items()
            if name.removeprefix("cmdstat_").partition("|")[0] not in _OURS
        )
        return int(sum(ran))


def part(turn: TurnId) -> RawPart:
    return RawPart(None, [RawEntry(f"{turn}-{i}", b"{}") for i in range(3)])


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        pytest.param(
            BOUNDED, {"submit": 25, "append": 7, "transcript": 8, "finish": 21}, id="bounded"
        ),
        pytest.param(
            UNBOUNDED, {"submit": 23, "append": 7, "transcript": 8, "finish": 21}, id="unbounded"
        ),
    ],
)
async def test_a_warm_turn_is_four_scripts_of_few_commands(
    limits: SubmitLimits, most: dict[str, int]
) -> None:
    """One command of each figure is the script itself."""
    server = RealRedis()
    try:
        server.launch()
        async with scene_at(server.url, Keys("counted")) as scene:
            counted = Counted(scene, limits)
            await counted.turn()
            async with Listener(scene, scene.keys.control_channel(W1)):
                for _ in range(3):
                    await counted.turn()
            record = await scene.store.conversations.get(C)
    finally:
        server.remove()
    assert record is not None
    assert record.turns == 4
    assert counted.commands == most


async def test_a_warm_conversation_sweeps_expired_bytes_now_and_then() -> None:
    """Not in each turn, which would cost a command."""
    server = RealRedis()
    try:
        server.launch()
        async with scene_at(server.url, Keys("counted")) as scene:
            counted = Counted(scene, BOUNDED)
            await counted.turn()
            held = scene.keys.tenant_held(TENANT)
            await scene.redis.hset(held, mapping={"gone": 5})  # type: ignore[misc]
            await scene.redis.zadd(scene.keys.tenant_held_until(TENANT), {"gone": 1})
            is_there = []
            async with Listener(scene, scene.keys.control_channel(W1)):
                for _ in range(20):
                    await counted.turn()
                    is_there.append(await scene.redis.hexists(held, "gone"))  # type: ignore[misc]
    finally:
        server.remove()
    assert is_there[:10] == [True] * 10
    assert not is_there[-1]
