"""A cluster in virtual time, a schedule of what befalls it, and what must hold all the while.

    world = World(schedule)
    world.live()   # raises AssertionError with what was broken

Everything follows from the schedule: the same one always ends the same way.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from redis.asyncio import Redis

from infra.store.access.limits import SubmitLimits
from infra.store.keys import Keys
from infra.store.turns.runs import events_in
from infra.store.turns.turns import NewTurn, TurnStore
from infra.wire.control import TurnWaits, decode_control
from infra.wire.errors import TurnNotFound
from infra.wire.events import is_end
from infra.wire.ids import ConversationKey, HostId, ReplicaId, TenantId, TurnId, WorkerId
from infra.wire.states import TURN_TRANSITIONS, TurnState
from infra.wire.turns import TextBlock, TurnRequest
from tests.fakes.virtual_redis import VirtualRedis
from tests.fakes.virtual_time import Kernel, Process, pause
from tests.unit.cluster_model.line import Line, Moment, Spring, Trap
from tests.unit.cluster_model.machines import AgentTurn, Box, Machine, Task
from tests.unit.cluster_model.workers import ModelWorker, Rules
from worker.ownership import HeldLease

HOSTS = (HostId("host-a"), HostId("host-a"), HostId("host-b"))
"""Where each of the three workers is."""
CONVERSATIONS = tuple(ConversationKey(f"{i:024x}") for i in range(3))
TENANT = TenantId("t" * 20)
KEYS = Keys("agc")
RULES = Rules()
TURN_BYTES = 6000
"""Of a turn with nothing in it, as the scripts count it."""
TROUBLE_S = 45.0
"""For so long there are faults and new turns."""
SETTLE_S = 60.0
"""Lease, heartbeat, sweep, patience and the longest pause between two looks, with a margin."""
QUIET_S = 150.0
"""After this much more nothing is left: idle containers, orphans."""


class Trouble(StrEnum):
    """What may happen; `who` is a worker, a host, a conversation or a turn."""

    FREEZE = "freeze"
    FREEZE_AT = "freeze in the middle of a script"
    KILL_AT = "kill in the middle of a script"
    SUSPEND_AT = "suspend the machine in the middle of a script"
    LOSE_AT = "lose a script's answer"
    KILL = "kill"
    LEAVE = "leave"
    RETIRE = "retire"
    HOST_DIES = "host dies"
    SUSPEND = "suspend the machine"
    CUT = "cut off from redis"
    HOLE = "redis a black hole"
    LOSSY = "answers of redis lost"
    CONTAINER_DIES = "container dies"
    LINK_CUT = "link to the agent cut"
    CANCEL = "cancel"
    CLOCK_BACK = "redis clock steps back"
    CLOCK_AHEAD = "redis clock steps ahead"


@dataclass(frozen=True)
class Fault:
    at_s: float
    trouble: Trouble
    who: int
    for_s: float
    script: str = "append"
    moment: Moment = Moment.UNSENT


@dataclass(frozen=True)
class Ask:
    at_s: float
    conversation: int
    events: int
    every_s: float
    is_hinted: bool


@dataclass(frozen=True)
class Schedule:
    seed: int
    asks: tuple[Ask, ...]
    faults: tuple[Fault, ...]
    bad_starts: float = 0.0
    is_to_the_end: bool = True
    """Also whether nothing is left long after."""
    walls_ahead_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """By how much the wall clocks of the workers are wrong; Redis' own is right."""
    has_little_memory: bool = False
    """Whatever becomes idle is hibernated within a second."""
    costs_no_turn: bool = False
    """Its faults leave every turn to end well."""


_SPRINGS = {
    Trouble.FREEZE_AT: Spring.FREEZE,
    Trouble.KILL_AT: Spring.KILL,
    Trouble.SUSPEND_AT: Spring.SUSPEND,
    Trouble.LOSE_AT: Spring.LOSE,
}
_OWNERS = frozenset({"start", "claim", "finish", "requeue", "update", "release", "hibernate"})
"""Scripts only an owner may run: they name it and its fence, and the conversation comes first of
their keys."""


@dataclass
class Seen:
    """What came out of one turn."""

    task: Task
    asked_s: float
    conversation: ConversationKey
    ended_s: float | None = None
    states: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    runs: set[str] = field(default_factory=set)
    ends: int = 0


class World:
    def __init__(
        self,
        schedule: Schedule,
        *,
        rules: Rules = RULES,
        mutate: Callable[[str], str] | None = None,
    ) -> None:
        """`rules` and `mutate` break something, to see that the invariants notice."""
        self.schedule = schedule
        self.violations: list[str] = []
        self.turns: dict[TurnId, Seen] = {}
        self.story: list[str] = []
        self.stale_writes = 0
        self.begun = 0
        """How many turns their submit began."""
        self.scripts: set[str] = set()
        """All that have run."""
        self._rules = rules
        self._chance = random.Random(schedule.seed)
        self._kernel = Kernel(self._chance)
        self._clock_step_s = 0.0
        self._redis = VirtualRedis(self._redis_us, mutate=mutate)
        self._redis.watch = self._on_write
        self._redis.hearers = self._on_message
        self._machines = {host: Machine(host, self._kernel) for host in set(HOSTS)}
        self._workers: list[ModelWorker] = []
        self._born = 0
        self._starts: Counter[TurnId] = Counter()
        self._tools: Counter[TurnId] = Counter()
        self._caller: tuple[str, str, str] | None = None
        self._appenders: dict[TurnId, tuple[str, str, str]] = {}
        """Conversation, worker and fence of the script that runs."""
        self._publishers: dict[tuple[ConversationKey, int], WorkerId] = {}
        for machine in self._machines.values():
            machine.on_start, machine.on_tool = self._on_start, self._on_tool

    # The course of things

    def live(self) -> None:
        """From the first turn to the last container. Raises `AssertionError`."""
        random.seed(self.schedule.seed)  # What the real code jitters with.
        try:
            for slot in range(len(HOSTS)):
                self._workers.append(self._bear(slot))
            outside = Process("outside")
            for ask in self.schedule.asks:
                self._kernel.spawn(outside, self._ask(ask))
            for fault in self.schedule.faults:
                self._kernel.spawn(outside, self._befall(fault))
            self._run(TROUBLE_S)
            self._heal()
            work_s = sum(seen.task.events * seen.task.every_s for seen in self.turns.values())
            self._run(TROUBLE_S + SETTLE_S + work_s, until_ended=True)
            self._check_turns()
            if self.schedule.is_to_the_end:
                self._run(self._kernel.now_s + QUIET_S)
                self._check_leftovers()
        finally:
            self._kernel.close()

    def _run(self, until_s: float, *, until_ended: bool = False) -> None:
        """`until_ended`: no longer than until every turn has ended."""
        while self._kernel.now_s < until_s:
            if until_ended and all(seen.ended_s is not None for seen in self.turns.values()):
                return
            try:
                self._kernel.run(min(until_s, self._kernel.now_s + 1.0))
            except Exception as error:  # noqa: BLE001 - whatever a process lets out would end it
                self._break(f"a process let out {error!r}")
            assert not self.violations, self.violations[0]

    def _heal(self) -> None:
        for slot, worker in enumerate(self._workers):
            worker.process.frozen_until_s = min(worker.process.frozen_until_s, self._kernel.now_s)
            for box in worker.machine.boxes.values():
                box.process.frozen_until_s = 0.0
            worker.line.trap = None
            worker.line.cut_until_s = worker.line.hole_until_s = worker.line.lossy_until_s = 0.0
            if worker.process.is_dead:
                self._workers[slot] = self._bear(slot)

    # Who is there

    def _bear(self, slot: int) -> ModelWorker:
        self._born += 1
        id = WorkerId(f"{HOSTS[slot]}-{self._born:08x}")
        worker = ModelWorker(
            id,
            self._machines[HOSTS[slot]],
            line=self._line(Process(id)),
            keys=KEYS,
            kernel=self._kernel,
            chance=self._chance,
            on_publish=self._on_publish,
            hint=self._hint,
            task_of=lambda turn: self.turns[turn].task,
            bad_starts=self.schedule.bad_starts,
            wall_ahead_s=self.schedule.walls_ahead_s[slot],
            has_little_memory=self.schedule.has_little_memory,
            rules=self._rules,
        )
        worker.line.suspend = lambda for_s: self._suspend(HOSTS[slot], for_s)
        worker.start()
        return worker

    def _line(self, process: Process) -> Line:
        return Line(
            self._redis,
            process,
            self._kernel,
            self._chance,
            keys=KEYS,
            on_script=self._on_script,
            on_error=self._on_script_error,
        )

    async def _ask(self, ask: Ask) -> None:
        await pause(ask.at_s)
        turn = TurnId(f"turn-{len(self.turns)}")
        c = CONVERSATIONS[ask.conversation]
        self.turns[turn] = Seen(Task(ask.events, ask.every_s), self._kernel.now_s, c)
        request = TurnRequest(
            turn=turn,
            conversation=c,
            tenant=TENANT,
            model="model",
            prompt=(TextBlock(text="go"),),
            deadline_s=600,
            idle_timeout_s=15,
        )
        new = NewTurn(request, ReplicaId("api"), "v1.sealed", 4_000_000_000_000)
        line = cast(Redis, self._line(Process("api")))
        submitted = await TurnStore(line, KEYS).submit(
            new, limits=SubmitLimits(turns_waiting_max=99), retention_s=3600
        )
        if ask.is_hinted and not submitted.is_told:
            self._hint(turn, submitted.owner)

    def _hint(self, turn: TurnId, owner: WorkerId | None) -> None:
        """An arq job on its way to somebody; one in ten is lost."""
        living = [w for w in self._workers if not w.process.is_dead]
        # What the sender knows of the owner may be old: one in five goes to anybody.
        is_known = owner is not None and self._chance.random() < 0.8
        named = [w for w in living if w.id == owner] if is_known else living
        if named and self._chance.random() < 0.9:
            worker = self._chance.choice(named)
            worker.spawn(self._bring(worker, turn, is_shared=owner is None))

    def _on_message(self, channel: str, message: bytes) -> int:
        """A control message: one in ten is lost, comes twice, or comes much later."""
        for worker in self._workers:
            is_up = not worker.process.is_dead and worker.line.cut_until_s <= self._kernel.now_s
            if channel != KEYS.control_channel(worker.id) or not is_up:
                continue
            said = decode_control(message)
            if isinstance(said, TurnWaits):
                self.begun += said.begun is not None
                for delay_s in self._delays():
                    worker.spawn(self._tell(worker, said, delay_s))
            return 1
        return 0

    def _delays(self) -> tuple[float, ...]:
        soon_s, late_s = self._chance.uniform(0.0005, 0.01), self._chance.uniform(1.0, 25.0)
        if self._kernel.now_s >= TROUBLE_S:
            return (soon_s,)
        return self._chance.choice((*[(soon_s,)] * 7, (), (soon_s, late_s), (late_s,)))

    async def _tell(self, worker: ModelWorker, waits: TurnWaits, delay_s: float) -> None:
        await pause(delay_s)
        worker.hears(waits)

    async def _bring(self, worker: ModelWorker, turn: TurnId, *, is_shared: bool) -> None:
        await pause(self._chance.uniform(0.001, 0.1))
        await (worker.places.take(turn) if is_shared else worker.places.claim(turn))

    # What befalls them

    async def _befall(self, fault: Fault) -> None:
        await pause(fault.at_s)
        now_s = self._kernel.now_s
        slot = fault.who % len(HOSTS)
        worker = self._workers[slot]
        until_s = now_s + fault.for_s
        match fault.trouble:
            case Trouble.FREEZE:
                worker.process.frozen_until_s = until_s
            case Trouble.FREEZE_AT | Trouble.KILL_AT | Trouble.SUSPEND_AT | Trouble.LOSE_AT:
                spring = _SPRINGS[fault.trouble]
                worker.line.trap = Trap(fault.script, fault.moment, fault.for_s, spring)
                if spring is Spring.KILL:
                    await self._replace_when_dead(slot, fault.for_s)
            case Trouble.SUSPEND:
                self._suspend(HOSTS[slot], fault.for_s)
            case Trouble.KILL | Trouble.LEAVE | Trouble.RETIRE | Trouble.HOST_DIES:
                await self._take_away(fault.trouble, slot, fault.for_s)
            case Trouble.CUT:
                worker.line.cut_until_s = until_s
            case Trouble.HOLE:
                worker.line.hole_until_s = until_s
            case Trouble.LOSSY:
                worker.line.lossy_until_s = until_s
            case Trouble.CONTAINER_DIES:
                for box in self._boxes(fault.who):
                    box.process.is_dead = True
            case Trouble.LINK_CUT:
                for box in self._boxes(fault.who):
                    box.link = None
            case Trouble.CANCEL:
                await self._cancel(fault.who)
            case Trouble.CLOCK_BACK:
                self._clock_step_s -= fault.for_s / 20
            case Trouble.CLOCK_AHEAD:
                self._clock_step_s += fault.for_s / 20

    async def _take_away(self, trouble: Trouble, slot: int, for_s: float) -> None:
        slots = [slot]
        if trouble is Trouble.LEAVE:
            self._workers[slot].leave()
        elif trouble is Trouble.RETIRE:
            self._workers[slot].retire()
        else:
            if trouble is Trouble.HOST_DIES:
                slots = [i for i, host in enumerate(HOSTS) if host == HOSTS[slot]]
                self._machines[HOSTS[slot]].lose_power()
            for gone in slots:
                self._workers[gone].process.is_dead = True
        for gone in slots:
            await self._replace_when_dead(gone, for_s)

    async def _replace_when_dead(self, slot: int, for_s: float) -> None:
        """One that takes its time to leave is waited for."""
        gone = self._workers[slot]
        await pause(for_s)
        while not gone.process.is_dead:
            await pause(0.5)
        if self._workers[slot] is gone:
            self._workers[slot] = self._bear(slot)

    def _suspend(self, host: HostId, for_s: float) -> None:
        """Nothing of the machine runs, its containers neither. What its clock makes of that is a
        rule of the workers."""
        until_s = self._kernel.now_s + for_s
        for slot, worker in enumerate(self._workers):
            if HOSTS[slot] == host:
                worker.process.frozen_until_s = max(worker.process.frozen_until_s, until_s)
                if not self._rules.counts_suspended:
                    worker.clock.stand_still(for_s)
        for box in self._machines[host].boxes.values():
            box.process.frozen_until_s = max(box.process.frozen_until_s, until_s)

    def _boxes(self, who: int) -> list[Box]:
        c = CONVERSATIONS[who % len(CONVERSATIONS)]
        return [box for m in self._machines.values() if (box := m.of(c)) is not None]

    async def _cancel(self, who: int) -> None:
        if self.turns:
            turn = list(self.turns)[who % len(self.turns)]
            line = cast(Redis, self._line(Process("api")))
            with suppress(TurnNotFound):  # It is on its way still.
                await TurnStore(line, KEYS).cancel(turn, tenant=TENANT, reason="client_gone")

    # What must hold

    def _redis_us(self) -> int:
        return int((1_700_000_000 + self._kernel.now_s + self._clock_step_s) * 1_000_000)

    def _break(self, what: str) -> None:
        self.violations.append(f"[{self._kernel.now_s:.3f} s] {what}")

    def _on_script(self, script: str, call: Mapping[str, Any]) -> None:
        """Who calls, and under which fence: nothing of an older one may be written."""
        self._caller = None
        self._appenders = {}
        self.scripts.add(script)
        if script == "append":
            for run in call["runs"]:
                conversation = KEYS.conversation(ConversationKey(run["conversation"]))
                self._appenders[TurnId(run["turn"])] = (
                    conversation,
                    run["worker"],
                    str(run["fence"]),
                )
        if script in _OWNERS:
            self._caller = (str(call["KEYS"][0]), str(call["worker"]), str(call["fence"]))

    def _on_script_error(self, error: Exception) -> None:
        self._break(f"a script failed: {error}")

    def _on_start(self, turn: AgentTurn) -> None:
        self._starts[turn.turn] += 1
        if self._starts[turn.turn] > 1:
            self._break(f"{turn.turn} was started twice")
        if self.turns[turn.turn].ended_s is not None:
            self._break(f"{turn.turn} was started after its end")

    def _on_tool(self, turn: AgentTurn) -> None:
        self._tools[turn.turn] += 1
        if self._tools[turn.turn] > 1:
            self._break(f"a tool of {turn.turn} ran twice")

    def _on_publish(
        self, worker: WorkerId, held: HeldLease, turn: TurnId, n: int, payload: bytes
    ) -> None:
        c = held.conversation
        if self._publishers.setdefault((c, held.fence), worker) != worker:
            self._break(f"two publishers under fence {held.fence} of {c}")
        newest = self._redis.execute("HGET", KEYS.conversation(c), "fence")
        if newest is not None and int(newest) != held.fence:
            self._break(f"{worker} published under {held.fence} when {int(newest)} was given out")

    def _on_write(self, command: str, key: str, args: Sequence[bytes]) -> None:
        if self._caller is not None and command != "PUBLISH":
            self._check_owner(key, *self._caller)
            self._caller = None
        if not key.startswith("agc:turn:"):
            return
        turn = TurnId(key.split(":")[2])
        seen = self.turns[turn]
        if command == "XADD":
            if appender := self._appenders.get(turn):
                self._check_owner(key, *appender)
            for n, payload in events_in(args[3], {args[4]: args[5]}):
                self._on_logged(turn, seen, n, payload)
        elif command == "HSET" and b"state" in args[::2]:
            self._on_state(turn, seen, args[args.index(b"state") + 1].decode())

    def _check_owner(self, key: str, conversation: str, worker: str, fence: str) -> None:
        held = self._redis.execute("HMGET", conversation, "owner", "fence")
        if held != [worker.encode(), fence.encode()]:
            self._break(f"{worker} wrote {key} under {fence}; {held} has it")

    def _on_logged(self, turn: TurnId, seen: Seen, n: int, payload: bytes) -> None:
        if n != len(seen.numbers) + 1:
            self._break(f"{turn}: event {n} behind {len(seen.numbers)}")
        if seen.ends:
            self._break(f"{turn}: event {n} after the end")
        elif not is_end(payload):
            state = self._redis.execute("HGET", KEYS.conversation(seen.conversation), "state")
            if state != b"busy":
                self._break(f"{turn}: event {n} of a conversation that is {state}")
        seen.numbers.append(n)
        seen.ends += is_end(payload)
        if b"run " in payload or b"run-" in payload:
            seen.runs.add(payload.partition(b"run")[2][1:].split(b" ")[0].split(b'"')[0].decode())
        if len(seen.runs) > 1:
            self._break(f"{turn}: events of several attempts in one log")

    def _on_state(self, turn: TurnId, seen: Seen, state: str) -> None:
        if seen.states and TurnState(state) not in TURN_TRANSITIONS[TurnState(seen.states[-1])]:
            self._break(f"{turn}: {seen.states[-1]} -> {state}")
        seen.states.append(state)
        if TurnState(state).is_terminal:
            seen.ended_s = self._kernel.now_s

    def _check_turns(self) -> None:
        for turn, seen in self.turns.items():
            assert seen.ended_s is not None, f"{turn} is stuck: {seen.states}"
            assert seen.ends == 1, f"{turn} has {seen.ends} end events"
            is_done = seen.states[-1] == TurnState.DONE
            assert is_done or not self.schedule.costs_no_turn, f"{turn} ended {seen.states}"
            if is_done:
                assert len(seen.numbers) == seen.task.events + 1, f"{turn} is not whole"
            left = self._redis.execute("EXISTS", KEYS.turn_request(turn))
            assert not left, f"the request of {turn} is kept"
        self._check_bytes()

    def _check_bytes(self) -> None:
        """What the tenant holds is the sum of what is there: its turns and conversations."""
        found = self._redis.execute("HGETALL", KEYS.tenant_held(TENANT))
        held = dict(zip(map(bytes.decode, found[::2]), map(int, found[1::2]), strict=True))
        total = held.pop("total", 0)
        assert total == sum(held.values()), f"{total} bytes held of {held}"
        assert min(held.values(), default=0) >= 0, f"less than nothing is held: {held}"
        assert held.keys() <= {*self.turns, *CONVERSATIONS}, f"unknown bytes: {held}"
        for turn, seen in self.turns.items():
            said = self._redis.execute("HGET", KEYS.turn(turn), "said")
            assert held[turn] >= TURN_BYTES + int(said or 0), (
                f"{turn} said {said} and holds {held[turn]}"
            )
            assert seen.conversation in held

    def _check_leftovers(self) -> None:
        boxes = [id for machine in self._machines.values() for id in machine.boxes]
        assert not boxes, f"containers left: {boxes}"
        for c in CONVERSATIONS:
            held = self._redis.execute("HMGET", KEYS.conversation(c), "state", "turn")
            assert held[0] in (None, b"cold"), f"{c} is left {held}"
            assert held[1] is None, f"{c} is left {held}"
            assert not self._redis.execute("EXISTS", KEYS.lease(c)), f"{c} is still owned"
        assert self._redis.execute("ZCARD", KEYS.turns_open()) == 0
