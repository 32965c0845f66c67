"""What a turn costs when its conversation has had many: `python -m tests.bench.long_conversation`.

One conversation with the real store on a Redis of its own, without agents and HTTP: asked for,
claimed, given its memory, started, logged, its transcript kept, finished. A client that sends only
its new message is compared with one that resends everything. The latter's request itself grows, so
what the API makes of its body is shown beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from redis.asyncio import Redis

from api.chat.messages.prompt import read_messages
from api.chat.request import read_chat_request
from api.turns.ask import Prompt
from api.turns.chain import last_chains
from infra.runtime.identity import new_turn_id
from infra.store.access.limits import SubmitLimits
from infra.store.conversations.leases import Lease
from infra.store.conversations.transcripts import RawEntry, RawPart
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.server.connection import connect
from infra.store.turns.records import NewTurn
from infra.wire.events import Event, TextDelta, TurnEnded, TurnStarted, encode_event
from infra.wire.history.answers import shown_head
from infra.wire.ids import ConversationKey, HostId, ReplicaId, TenantId, WorkerId
from infra.wire.states import ConversationState, TurnState
from infra.wire.turns import TextBlock, TurnRequest
from tests.bench.ending import end_in_order
from tests.bench.table import render
from tests.fakes.redis_server import RealRedis
from worker.turns.memory import stand

C, SESSION = ConversationKey("c" * 24), "session-1"
ANSWER = "It is a beautiful day in the north, and the sea is calm. " * 4
NEAR = 10
"""Turns on each side that a figure is the median of."""


@dataclass
class Costs:
    """Microseconds of each turn, in their order."""

    redis: list[float] = field(default_factory=list)
    worker: list[float] = field(default_factory=list)
    api: list[float] = field(default_factory=list)
    body: list[float] = field(default_factory=list)

    def around(self, turn: int, of: str) -> float:
        """The cost of a turn with that many before it."""
        series: list[float] = getattr(self, of)
        return median(series[max(turn - NEAR, 1) : turn + NEAR])


class Talk:
    """One conversation, turn after turn."""

    def __init__(self, redis: Redis, *, resends: bool) -> None:
        self._redis = redis
        self._store: Store = store_on(redis, Keys("agclong"))
        self._resends = resends
        self._said: list[dict[str, str]] = []
        self._lease: Lease | None = None
        self.costs = Costs()

    async def turn(self) -> None:
        """One more, measured."""
        before = await self._redis_us()
        prompt = self._prompt()
        new = self._new_turn(prompt)
        limits = SubmitLimits(turns_waiting_max=8)
        began_s = time.process_time()
        await self._store.turns.submit(new, limits=limits, retention_s=3600)
        self.costs.api.append((time.process_time() - began_s) * 1e6)
        lease = self._lease or await self._take()
        began_s = time.process_time()
        await self._run(lease)
        self.costs.worker.append((time.process_time() - began_s) * 1e6)
        self.costs.redis.append(await self._redis_us() - before)
        self._said += [{"role": "assistant", "content": ANSWER}]

    def _prompt(self) -> Prompt:
        said = {"role": "user", "content": f"What is number {len(self._said)}?"}
        self._said = [*self._said, said] if self._resends else [said]
        body = json.dumps({"model": "m", "messages": self._said}).encode()
        began_s = time.process_time()
        prompt = read_messages(read_chat_request(body).messages)
        if len(prompt.sent) > 1:
            last_chains(prompt.system_prompt, prompt.sent, prompt.answers)
        self.costs.body.append((time.process_time() - began_s) * 1e6)
        return prompt

    def _new_turn(self, prompt: Prompt) -> NewTurn:
        request = TurnRequest(
            turn=new_turn_id(),
            conversation=C,
            tenant=TenantId("t" * 20),
            model="m",
            history=prompt.history,
            prompt=prompt.prompt or (TextBlock(text="?"),),
            deadline_s=600,
            idle_timeout_s=600,
            sent=prompt.sent,
            begins=prompt.begins,
            answers=tuple(map(shown_head, prompt.answers)),
            tails=prompt.tails,
            is_thin=not self._resends,
        )
        return NewTurn(request, ReplicaId("api"), "v1.sealed", 4_000_000_000_000)

    async def _take(self) -> Lease:
        worker, host = WorkerId("host-a-00000001"), HostId("host-a")
        self._lease = lease = await self._store.leases.acquire(C, worker, host)
        await self._store.conversations.update(lease, ConversationState.STARTING)
        await self._store.conversations.update(lease, ConversationState.BUSY, container="box")
        return lease

    async def _run(self, lease: Lease) -> None:
        turns = self._store.turns
        claimed = await turns.claim(lease)
        assert claimed is not None
        request, turn = claimed.request, claimed.record.turn
        base = stand(claimed, has_session=bool(claimed.known)).base
        assert claimed.known == len(self.costs.worker), "a turn is forgotten"
        await turns.start(lease, turn, base=base, is_resending=bool(request.history))
        said: list[Event] = [TurnStarted(sdk_session=SESSION, model="m"), TextDelta(text=ANSWER)]
        events = [(n, encode_event(event)) for n, event in enumerate(said, 1)]
        await self._store.log.append(lease, turn, events)
        entries = [RawEntry(f"{turn}-{n}", b'{"type":"user","text":"something"}') for n in range(3)]
        await self._store.transcripts.append(lease, SESSION, RawPart(None, entries))
        end = TurnEnded(state=TurnState.DONE, checkpoint=f"{turn}-2", heads=(shown_head(ANSWER),))
        await turns.finish(lease, turn, 3, end, idle_timeout_s=600, digest=base.digest)

    async def _redis_us(self) -> float:
        """What its commands have taken so far; those of scripts are in their scripts' time."""
        stats = await self._redis.info("commandstats")
        outside = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall", "cmdstat_publish")
        return float(sum(stats[name]["usec"] for name in outside if name in stats))


async def talked(turns: int, *, resends: bool) -> Costs:
    """A whole conversation."""
    server = RealRedis()
    try:
        server.launch()
        redis = connect(server.url, timeout_s=30, name="bench")
        talk = Talk(redis, resends=resends)
        for _ in range(turns + NEAR):
            await talk.turn()
        await redis.aclose()
        return talk.costs
    finally:
        server.remove()


def table(kinds: Sequence[tuple[str, Costs]], last: int) -> str:
    """The tenth turn beside the last one."""
    rows = []
    for kind, costs in kinds:
        for part in ("redis", "worker", "api", "body"):
            tenth, then = costs.around(NEAR, part), costs.around(last, part)
            rows.append([kind, part, f"{tenth:.0f}", f"{then:.0f}", f"{then / tenth:.2f}"])
    return render(["client", "us of", "10th turn", f"{last}th turn", "ratio"], rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=1000)
    turns = parser.parse_args().turns
    runs: Callable[[bool], Costs] = lambda resends: asyncio.run(talked(turns, resends=resends))  # noqa: E731
    print(table([("only what is new", runs(False)), ("everything again", runs(True))], turns))


if __name__ == "__main__":
    end_in_order()
    main()
