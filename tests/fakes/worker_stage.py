"""A cluster of workers in one process: real store, real links, scripted agents, no container.

    async with Stage(redis) as stage:
        worker = await stage.worker()
        turn = await stage.ask(C, "echo hello there")
        assert (await stage.ended(turn)).state is TurnState.DONE
        assert stage.said(turn) == "hello there"

`kill` ends a worker as `kill -9` does: its tasks are cancelled where they stand and its connections
drop, while containers, agents, the gateway and Redis go on.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis

from infra.files.store import FileStore
from infra.runtime.clock import Clock, SystemClock
from infra.runtime.identity import new_turn_id
from infra.runtime.sealing import SealContext
from infra.runtime.settings import Settings
from infra.store.access.limits import SubmitLimits
from infra.store.keys import Keys
from infra.store.open import Store, store_on
from infra.store.placement.waiting_room import Taken
from infra.store.server.faults import FAULTS
from infra.store.turns.turns import NewTurn
from infra.wire.agents.delegation import Delegation
from infra.wire.agents.ref import AgentRef
from infra.wire.errors import StoreUnavailable
from infra.wire.events import Event, TextDelta, TurnEnded, decode_event
from infra.wire.frames import Frame, split_frames
from infra.wire.history.answers import shown_head
from infra.wire.ids import ConversationKey, HostId, ReplicaId, TenantId, TurnId, WorkerId
from infra.wire.options import NO_TURN_OPTIONS, TurnOptions
from infra.wire.states import TurnState
from infra.wire.turns import ContentBlock, HistoryMessage, Lane, TextBlock, TurnRequest
from tests.fakes.memory_gateway import MemoryGateway
from tests.fakes.memory_host import HOST, MemoryHost, MemoryMachine
from tests.fakes.scripted_agent import Script, ScriptedAgent
from worker.gateway_client.registrar import Gateway
from worker.hosts.host import ContainerSpec
from worker.parts import Timings
from worker.process import Surroundings, WorkerProcess

TENANT = TenantId("t" * 20)
REPLICA = ReplicaId("api-1")
KEY_EXPIRES_MS = 4_000_000_000_000
WAIT_S = 30.0

QUICK = Timings(
    log_every_s=0.05,
    meter_every_s=0.05,
    relink_s=1.0,
    greeting_s=0.5,
    silence_s=0.5,
    sweep_at_least_s=0.05,
    sweep_at_most_s=0.1,
    unclaimed_after_s=0.1,
    reconcile_every_s=0.3,
    orphan_grace_s=0.3,
    host_patience_s=0.5,
    successor_patience_s=0.5,
    give_way_after_s=0.2,
    hand_over_s=5.0,
    stop_grace_s=0.1,
    inventory_every_s=0.1,
    keep_starts_every_s=0.1,
    engine_cool_down_s=0.1,
    engine_cool_down_max_s=0.2,
)


def conversation(name: str) -> ConversationKey:
    return ConversationKey(name.encode().hex().ljust(24, "0")[:24])


async def eventually(condition: Callable[[], bool], *, timeout_s: float = WAIT_S) -> None:
    """Until something is so that nobody signals."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is awaited here has no event to set
            await asyncio.sleep(0.01)


def _blocks(said: str | tuple[ContentBlock, ...]) -> tuple[ContentBlock, ...]:
    return (TextBlock(text=said),) if isinstance(said, str) else said


class RunningWorker:
    """A worker and its task."""

    def __init__(self, process: WorkerProcess, group: asyncio.TaskGroup) -> None:
        self.process = process
        self.stop_asked = asyncio.Event()
        self._task = group.create_task(process.run(self.stop_asked))

    @property
    def id(self) -> WorkerId:
        return self.process.worker

    async def stop(self) -> None:
        """SIGTERM; until it has left."""
        self.stop_asked.set()
        await self.left()

    async def left(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await asyncio.shield(self._task)

    async def kill(self) -> None:
        """`kill -9`."""
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=WAIT_S)


class Stage:
    """Everything around the workers, and what the API would do and see."""

    def __init__(
        self,
        redis: Redis,
        *,
        script: Script | None = None,
        agent: Callable[[ContainerSpec], AbstractAsyncContextManager[Any]] | None = None,
        clock: Clock | None = None,
        prefix: str = "test",
        **settings: Any,
    ) -> None:
        self.redis = redis
        self.keys = Keys(f"{prefix}-{secrets.token_hex(4)}")
        self.clock = clock or SystemClock()
        self.folder = Path(tempfile.mkdtemp(prefix="agc-w-"))
        self.settings = Settings(
            **{
                "data_dir": self.folder,
                "slots": 20,
                "spares_max": 0,
                "container_start_timeout_s": 10.0,
                "disconnect_grace_s": 2.0,
                "drain_timeout_s": 5.0,
                **settings,
            }
        )
        self.store: Store = store_on(
            redis,
            self.keys,
            transcript_max_bytes=self.settings.transcript_max_bytes,
            tenant_bytes_max=self.settings.tenant_bytes_max,
        )
        self.gateway = MemoryGateway()
        self.files: FileStore | None = None
        """What workers started from now on find callers' files in."""
        self.real_gateway: Gateway | None = None
        """Used by workers started from now on, in place of the one in memory."""
        self.seal: Callable[[SealContext], str] = lambda context: "v1.sealed"
        """How a turn's key is sealed."""
        self.agents: defaultdict[ConversationKey, list[ScriptedAgent]] = defaultdict(list)
        self.frames: defaultdict[TurnId, list[Frame]] = defaultdict(list)
        self.machine = MemoryMachine(agent or self._agent)
        self._script = script
        self._stack = AsyncExitStack()
        self.workers: list[RunningWorker] = []

    async def __aenter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        await self._stack.enter_async_context(self.machine)
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        listening = asyncio.Event()
        self._listener = self._group.create_task(self._listen(listening))
        await listening.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self.workers:
            await worker.kill()
        self._listener.cancel()
        await self._stack.__aexit__(kind, error, trace)

    # Workers

    async def worker(
        self,
        *,
        host: MemoryHost | None = None,
        host_id: HostId = HOST,
        timings: Timings = QUICK,
        clock: Clock | None = None,
        renew_every_s: float = 0.2,
        beat_every_s: float = 0.2,
        memory: Callable[[], int | None] = lambda: None,
        **settings: Any,
    ) -> RunningWorker:
        """Start one and wait until it is registered. `memory`: the MB its host has available."""
        host = host or MemoryHost(self.machine, host=host_id)
        if host.host != HOST:
            # Another machine has files of its own.
            settings.setdefault("data_dir", self.folder / host.host)
        around = Surroundings(
            settings=self.settings.model_copy(update=settings),
            store=self.store,
            host=host,
            gateway=self.real_gateway or self.gateway,
            clock=clock or self.clock,
            timings=timings,
            renew_every_s=renew_every_s,
            beat_every_s=beat_every_s,
            available_memory_mb=memory,
            files=self.files,
        )
        process = WorkerProcess(WorkerId(f"{host.host}-{secrets.token_hex(4)}"), around)
        worker = RunningWorker(process, self._group)
        self.workers.append(worker)
        await self._registered(worker.id)
        return worker

    async def worker_with_real_rhythm(self) -> RunningWorker:
        """One with the intervals of a deployment."""
        return await self.worker(timings=Timings(), renew_every_s=5.0, beat_every_s=5.0)

    async def killed_after_take(self, worker: RunningWorker, c: ConversationKey) -> TurnId:
        """A turn that the worker took from the waiting room; it was killed before it owned it."""
        room, took = worker.process.parts.room, asyncio.Event()
        take: Callable[..., Awaitable[object]] = room.take

        async def take_and_hang(*args: object, **kwargs: object) -> object:
            assert isinstance(await take(*args, **kwargs), Taken)
            took.set()
            return await asyncio.Event().wait()

        room.take = take_and_hang  # type: ignore[method-assign, assignment]
        turn = await self.ask(c, "echo found again")
        async with asyncio.timeout(WAIT_S):
            await took.wait()
        await worker.kill()
        room.take = take  # type: ignore[method-assign, assignment]
        return turn

    async def _registered(self, worker: WorkerId) -> None:
        async with asyncio.timeout(WAIT_S):
            alive: set[WorkerId] = set()
            while worker not in alive:
                await asyncio.sleep(0.01)
                alive = {w.worker for w in await self.store.workers.alive()}

    @asynccontextmanager
    async def _agent(self, spec: ContainerSpec) -> AsyncIterator[ScriptedAgent]:
        async with ScriptedAgent(spec.folders.sockets / "agent.sock", self._script) as agent:
            self.agents[spec.conversation].append(agent)
            yield agent

    def containers(self) -> list[ConversationKey]:
        """Conversations with a container that runs."""
        return [
            k.container.conversation for k in self.machine.kept.values() if k.container.is_running
        ]

    async def lapse_lease(self, c: ConversationKey) -> None:
        """What 15 s without a renewal do: no owner, and its turn comes up in the next sweep."""
        await self.redis.delete(self.keys.lease(c))
        record = await self.store.conversations.get(c)
        if record and record.turn:
            await self.redis.zadd(self.keys.turns_open(), {record.turn: 0})

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Something that goes on beside the test; it has to end before the stage does."""
        return self._group.create_task(work)

    # As the API

    async def ask(
        self,
        c: ConversationKey,
        prompt: str | tuple[ContentBlock, ...],
        *,
        history: tuple[str | tuple[ContentBlock, ...], ...] = (),
        answers: tuple[str, ...] = (),
        deadline_s: float = 60.0,
        idle_timeout_s: float = 60.0,
        is_hinted: bool = True,
        is_thin: bool = False,
        lane: Lane = Lane.AGENT,
        tenant: TenantId = TENANT,
        turn_options: TurnOptions = NO_TURN_OPTIONS,
        agent: AgentRef | None = None,
        delegation: Delegation | None = None,
    ) -> TurnId:
        """Submit a turn and ring the bell, as the API does.

        `answers` are those its client shows to the messages of `history`; without them none is
        known.
        """
        turn = new_turn_id()
        said: list[HistoryMessage] = []
        begins: list[int] = []
        for text, answer in zip_longest(history, answers):
            begins.append(len(said))
            said.append(HistoryMessage(role="user", content=_blocks(text)))
            if answer:
                said.append(HistoryMessage(role="assistant", content=(TextBlock(text=answer),)))
        submitted = await self.store.turns.submit(
            NewTurn(
                request=TurnRequest(
                    turn=turn,
                    conversation=c,
                    tenant=tenant,
                    model="claude-test",
                    history=tuple(said),
                    begins=tuple(begins),
                    answers=tuple(map(shown_head, answers)),
                    prompt=_blocks(prompt),
                    deadline_s=deadline_s,
                    idle_timeout_s=idle_timeout_s,
                    agent=agent,
                    delegation=delegation,
                    lane=lane,
                    is_thin=is_thin,
                    turn_options=turn_options,
                ),
                replica=REPLICA,
                sealed_key=self.seal(SealContext(tenant, c, turn, KEY_EXPIRES_MS)),
                key_expires_ms=KEY_EXPIRES_MS,
            ),
            limits=SubmitLimits(turns_waiting_max=50),
            retention_s=3600,
        )
        if is_hinted and lane is Lane.SIDE:
            await self.store.queue.enqueue_side(turn)
        elif is_hinted:
            await self.store.queue.enqueue(turn, submitted.owner)
        return turn

    async def ask_side(
        self,
        c: ConversationKey,
        prompt: str,
        *,
        deadline_s: float = 60.0,
        is_hinted: bool = True,
        turn_options: TurnOptions = NO_TURN_OPTIONS,
    ) -> TurnId:
        """Submit a side turn; `c` must be new."""
        return await self.ask(
            c,
            prompt,
            deadline_s=deadline_s,
            is_hinted=is_hinted,
            lane=Lane.SIDE,
            turn_options=turn_options,
        )

    async def cancel(self, turn: TurnId) -> None:
        await self.store.turns.cancel(turn, tenant=TENANT, reason="client_gone")

    async def ended(self, turn: TurnId, *, timeout_s: float = WAIT_S) -> TurnEnded:
        """The turn's end, from the log."""
        async with asyncio.timeout(timeout_s):
            while True:
                page = await self.store.log.read(turn, after=0, limit=100_000)
                if page.state is None or page.state.is_terminal:
                    end = decode_event(page.events[-1][1])
                    assert isinstance(end, TurnEnded), end
                    return end
                await asyncio.sleep(0.01)

    async def ended_when_redis_is_back(self, turn: TurnId) -> TurnEnded:
        """As `ended`, through whatever happens to Redis."""
        async with asyncio.timeout(2 * WAIT_S):
            while True:
                try:
                    return await self.ended(turn)
                except StoreUnavailable:
                    await asyncio.sleep(0.1)

    async def until_said(self, turn: TurnId, events: int) -> None:
        """Until so many events of the turn have come live."""
        await eventually(lambda: len(self.frames[turn]) >= events)

    async def until_logged(self, turn: TurnId, events: int) -> None:
        """Until so many events of the turn are in its log."""
        async with asyncio.timeout(WAIT_S):
            while len(await self.logged(turn)) < events:  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(0.01)

    async def logged(self, turn: TurnId) -> list[tuple[int, Event]]:
        page = await self.store.log.read(turn, after=0, limit=100_000)
        return [(n, decode_event(payload)) for n, payload in page.events]

    async def log_text(self, turn: TurnId) -> str:
        """The answer as logged; fails when a number is missing or doubled."""
        events = await self.logged(turn)
        assert [n for n, _ in events] == list(range(1, len(events) + 1))
        assert sum(isinstance(e, TurnEnded) for _, e in events) <= 1
        return "".join(e.text for _, e in events if isinstance(e, TextDelta))

    def live_text(self, turn: TurnId) -> str:
        """The answer as a relay would put it together from the live frames alone."""
        fence, seen, out = 0, 0, []
        for frame in self.frames[turn]:
            if frame.n <= seen or frame.fence < fence:
                continue
            fence, seen = frame.fence, frame.n
            event = decode_event(frame.payload)
            if isinstance(event, TextDelta):
                out.append(event.text)
        return "".join(out)

    async def state(self, turn: TurnId) -> TurnState:
        record = await self.store.turns.get(turn)
        assert record is not None
        return record.state

    async def until_state(self, turn: TurnId, wanted: TurnState) -> None:
        async with asyncio.timeout(WAIT_S):
            while await self.state(turn) is not wanted:  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(0.01)

    async def _listen(self, listening: asyncio.Event) -> None:
        async with self.redis.pubsub() as channel:
            await channel.subscribe(self.keys.replica_channel(REPLICA))
            while True:
                try:
                    message = await channel.get_message(timeout=1.0)
                except FAULTS:
                    await asyncio.sleep(0.05)
                    continue
                if message is None:
                    continue
                listening.set()
                if message["type"] == "message":
                    for frame in split_frames(message["data"]):
                        self.frames[frame.turn].append(frame)
