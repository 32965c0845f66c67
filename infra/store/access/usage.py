"""Sums of what turns use: by conversation, by tenant, by tenant and day, and by model in each.

Gateways meter, owners of turns book (`meter`, `finish`), anybody may read. A figure is booked once,
however often and by whomever it is reported.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from infra.store.conversations.leases import Lease
from infra.store.keys import Keys
from infra.store.server.calls import Call
from infra.store.server.connection import translate
from infra.store.server.replies import Answer, fields, text
from infra.store.server.scripts import Scripts
from infra.wire.errors import LeaseLost
from infra.wire.events import Usage
from infra.wire.gateway import ModelUsage, TurnMeter
from infra.wire.ids import ConversationKey, Fence, TenantId, TurnId, WorkerId


@dataclass(frozen=True)
class Spent:
    """Tokens that count against budgets: of a turn, and of its tenant today."""

    turn_tokens: int
    tenant_tokens: int
    day_ends_in_s: float


@dataclass(frozen=True)
class UsageSums:
    """The total usage, and by model."""

    total: ModelUsage
    models: Mapping[str, ModelUsage]

    @property
    def is_empty(self) -> bool:
        return self.total.calls == 0


class MeterAnswer(Answer, frozen=True):
    outcome: Literal["ok", "lost"]
    turn_tokens: int = 0
    tenant_tokens: int = 0
    day_left_ms: int = 0


class MeterCall(Call[MeterAnswer], frozen=True):
    worker: WorkerId
    fence: Fence
    turn: TurnId
    metered: str


class SpentTodayAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    tokens: int
    day_left_ms: int


class SpentTodayCall(Call[SpentTodayAnswer], frozen=True):
    tenant: TenantId


class UsageStore:
    """Books and reads token usage.

    Meters only grow, and the store remembers what it has booked of each, so booking the same meter
    twice, or by two owners, adds nothing. All methods raise `StoreUnavailable`.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def book(self, lease: Lease, turn: TurnId, meter: TurnMeter) -> Spent:
        """Add what is new in a turn's meter to the sums. Raises `LeaseLost`, `StoreUnavailable`."""
        answer = await self._scripts.run(
            MeterCall(worker=lease.worker, fence=lease.fence, turn=turn, metered=report(meter)),
            conversation=self._keys.conversation(lease.conversation),
        )
        if answer.outcome == "lost":
            raise LeaseLost(lease.conversation, lease.fence)
        return Spent(answer.turn_tokens, answer.tenant_tokens, answer.day_left_ms / 1000)

    async def spent(self, tenant: TenantId) -> Spent:
        """The tokens that the tenant has spent today (UTC). Raises `StoreUnavailable`."""
        answer = await self._scripts.run(SpentTodayCall(tenant=tenant))
        return Spent(0, answer.tokens, answer.day_left_ms / 1000)

    async def of_conversation(self, c: ConversationKey) -> UsageSums:
        """The usage of a conversation. Raises `StoreUnavailable`."""
        return await self._read(self._keys.conversation_usage(c))

    async def of_tenant(self, tenant: TenantId, *, day: str | None = None) -> UsageSums:
        """In total, or of one day (`20260131`, UTC). Raises `StoreUnavailable`."""
        keys = self._keys
        name = keys.tenant_usage(tenant) if day is None else keys.tenant_usage_of(tenant, day)
        return await self._read(name)

    async def tenants(self) -> AsyncIterator[TenantId]:
        """All tenants with any usage, in no particular order; for operators. Raises
        `StoreUnavailable`."""
        pattern = self._keys.tenant_usage(TenantId("*"))
        before, _, after = pattern.partition("*")
        cursor = 0
        while True:
            with translate():
                cursor, names = await self._redis.scan(cursor, match=pattern, count=500)
            for name in map(text, names):
                yield TenantId(name.removeprefix(before).removesuffix(after))
            if cursor == 0:
                return

    async def _read(self, name: str) -> UsageSums:
        with translate():
            held = fields(await self._redis.hgetall(name))  # type: ignore[misc]
        figures: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for field, value in held.items():
            model, _, figure = field.rpartition(":")
            figures[model][figure] = int(value)
        models = {model: _sum(found) for model, found in sorted(figures.items()) if model}
        return UsageSums(total=_sum(figures[""]), models=models)


def report(meter: TurnMeter) -> str:
    """A meter in the form that the scripts read; empty if there is nothing to book."""
    if not meter.calls:
        return ""
    models = {
        model: [used.calls, *(getattr(used.usage, name) for name in _FIGURES)]
        for model, used in meter.models.items()
    }
    return json.dumps([meter.instance, models], separators=(",", ":"))


_FIGURES = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "thinking_tokens",
)
"""In the order of the scripts."""


def _sum(figures: Mapping[str, int]) -> ModelUsage:
    usage = Usage(**{name: figures.get(name, 0) for name in _FIGURES})
    return ModelUsage(calls=figures.get("calls", 0), usage=usage)
