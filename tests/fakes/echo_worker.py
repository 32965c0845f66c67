"""A stand-in for a whole worker and its agents: claims turns through the real store and says lines.

What it says to a prompt is a script: a list of events, gates to wait at and faults to act out.
A prompt without a script is echoed, word by word. It keeps the real worker's order: an event is
published live, and logged at once or with the next ones.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from infra.store.conversations.leases import Lease
from infra.store.open import Store
from infra.store.placement.queue import SideClaims
from infra.store.placement.workers import WorkerRecord
from infra.store.turns.turns import Claimed
from infra.wire.errors import ErrorCode, LeaseHeld, LeaseLost, StoreUnavailable
from infra.wire.events import (
    Event,
    TextDelta,
    TurnEnded,
    TurnError,
    TurnStarted,
    Usage,
    encode_event,
)
from infra.wire.frames import Frame
from infra.wire.ids import ConversationKey, HostId, TurnId, WorkerId
from infra.wire.states import TurnState, WorkerState
from infra.wire.turns import TextBlock, TurnRequest

BEAT_S = 5.0


@dataclass(frozen=True)
class Gate:
    """Wait until the test opens the gate of this name (or the turn is cancelled)."""

    name: str


@dataclass(frozen=True)
class Pause:
    """Wait a little, as a model does."""

    seconds: float


Step = Event | Gate | Pause
Script = Mapping[str, Sequence[Step]]

USAGE = Usage(input_tokens=7, output_tokens=5, cache_read_input_tokens=3)
DONE = TurnEnded(state=TurnState.DONE, usage=USAGE)


def failure(code: ErrorCode, message: str = "it failed") -> TurnEnded:
    """The end of a failed turn."""
    return TurnEnded(state=TurnState.FAILED, error=TurnError(code=code, message=message))


def words(text: str) -> list[Step]:
    """The text as deltas, a word each."""
    head, *rest = text.split(" ")
    return [TextDelta(text=head), *(TextDelta(text=f" {word}") for word in rest)]


class EchoWorker:
    """One worker. `running()` runs it for the length of a block."""

    def __init__(
        self,
        store: Store,
        script: Script | None = None,
        *,
        name: str = "echo",
        hints: asyncio.Queue[TurnId] | None = None,
        is_heard_live: Callable[[int], bool] = lambda n: True,
        log_every: int = 1,
    ) -> None:
        self._store = store
        self._script = dict(script or {})
        self._worker = WorkerId(f"{name}-00000000")
        self._host = HostId(name)
        self._is_heard_live = is_heard_live
        self._log_every = log_every
        self._hints = hints
        self._live = store.publisher()
        self._cancels: defaultdict[TurnId, asyncio.Event] = defaultdict(asyncio.Event)
        self._running: dict[ConversationKey, TurnId] = {}
        self._waiting: dict[ConversationKey, TurnId | None] = {}
        """Conversations with a turn under way, and a hint that came meanwhile."""
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.requests: list[TurnRequest] = []
        self.ended: asyncio.Queue[tuple[TurnId, TurnState]] = asyncio.Queue()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EchoWorker]:
        await self._beat()
        async with asyncio.TaskGroup() as self._turns:
            loops = [
                self._turns.create_task(self._place()),
                self._turns.create_task(self._live.run()),
                self._turns.create_task(self._listen()),
                self._turns.create_task(self._beat_on()),
            ]
            try:
                yield self
            finally:
                for loop in loops:
                    loop.cancel()
                for cancel in self._cancels.values():
                    cancel.set()

    def say(self, prompt: str, steps: Sequence[Step]) -> None:
        """From now on, say this to that prompt."""
        self._script[prompt] = steps

    async def _beat(self) -> None:
        await self._store.workers.beat(
            WorkerRecord(
                worker=self._worker, host=self._host, pid=1, version="0", slots=100, used=0,
                state=WorkerState.READY, started_ms=1,
            )
        )  # fmt: skip

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with suppress(StoreUnavailable):
                await self._beat()

    async def _place(self) -> None:
        if self._hints is not None:
            while True:
                await self._claim(await self._hints.get())
        side = SideClaims(self._claim, lambda: True)
        placement = self._store.placement(
            self._worker, claim=self._claim, has_room=lambda: True, side=side
        )
        await placement.run()

    async def _listen(self) -> None:
        async for control in self._store.workers.control(self._worker):
            if control.type == "cancel":
                self._cancels[control.turn].set()
            elif control.type == "stop_session":
                if (running := self._running.get(control.conversation)) is not None:
                    self._cancels[running].set()
            elif control.type == "turn_waits":
                await self._claim(control.turn)

    async def _claim(self, turn: TurnId) -> None:
        """One turn of a conversation at a time: a hint while one runs is looked at after it."""
        record = await self._store.turns.get(turn)
        if record is None or record.state.is_terminal:
            return
        c = record.conversation
        if c in self._waiting:
            self._waiting[c] = turn
            return
        self._waiting[c] = None
        if not await self._take(c):
            await self._leave(c)

    async def _take(self, c: ConversationKey) -> bool:
        """Run the conversation's next turn; False when there is none for us."""
        try:
            lease = await self._store.leases.acquire(c, self._worker, self._host)
        except LeaseHeld:
            return False
        claimed = await self._store.turns.claim(lease)
        if claimed is not None:
            self._turns.create_task(self._run(lease, claimed))
        return claimed is not None

    async def _leave(self, c: ConversationKey) -> None:
        if (hinted := self._waiting.pop(c)) is not None:
            await self._claim(hinted)

    async def _run(self, lease: Lease, claimed: Claimed) -> None:
        request = claimed.request
        self.requests.append(request)
        self._running[request.conversation] = request.turn
        said = _Saying(self._store, self._live.publish, lease, claimed, self._is_heard_live)
        cancelled = self._cancels[request.turn]
        end = DONE
        for step in self._steps(request):
            if cancelled.is_set():
                break
            if isinstance(step, Gate):
                await _either(self.gates[step.name], cancelled)
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, TurnEnded):
                end = step
            else:
                await said.say(encode_event(step), log_every=self._log_every)
        if cancelled.is_set():
            end = TurnEnded(state=TurnState.CANCELLED)
        del self._running[request.conversation]
        try:
            more = await said.finish(end)
        except LeaseLost:
            self._waiting.pop(request.conversation)
            return  # Redis forgot the conversation; a worker stops then.
        self.ended.put_nowait((request.turn, end.state))
        if more and (following := await self._store.turns.claim(lease)) is not None:
            self._turns.create_task(self._run(lease, following))
        else:
            await self._leave(request.conversation)

    def _steps(self, request: TurnRequest) -> Sequence[Step]:
        text = " ".join(b.text for b in request.prompt if isinstance(b, TextBlock))
        scripted = self._script.get(text)
        started = TurnStarted(sdk_session="s", model=request.model)
        return [started, *(words(text) if scripted is None else scripted)]


class _Saying:
    """One turn's events on their way out."""

    def __init__(
        self,
        store: Store,
        publish: Callable[..., None],
        lease: Lease,
        claimed: Claimed,
        is_heard_live: Callable[[int], bool],
    ) -> None:
        self._store = store
        self._publish = publish
        self._lease = lease
        self._record = claimed.record
        self._is_heard_live = is_heard_live
        self._unlogged: list[tuple[int, bytes]] = []
        self._n = 0

    async def say(self, payload: bytes, *, log_every: int) -> None:
        self._n += 1
        self._unlogged.append((self._n, payload))
        self._say_live(payload)
        if self._n == 1 or len(self._unlogged) >= log_every:
            await self._log()
        else:
            await asyncio.sleep(0)

    async def finish(self, end: TurnEnded) -> bool:
        await self._log()
        self._n += 1
        while True:
            try:
                more = await self._store.turns.finish(
                    self._lease, self._record.turn, self._n, end, idle_timeout_s=60
                )
            except StoreUnavailable:
                await asyncio.sleep(0.1)
            else:
                self._say_live(encode_event(end))
                return more

    async def _log(self) -> None:
        while self._unlogged:
            try:
                await self._store.log.append(self._lease, self._record.turn, self._unlogged)
            except StoreUnavailable:
                await asyncio.sleep(0.1)
            else:
                self._unlogged = []

    def _say_live(self, payload: bytes) -> None:
        if self._is_heard_live(self._n):
            frame = Frame(self._record.turn, self._lease.fence, self._n, payload)
            self._publish(self._record.replica, frame.encode())


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.Event.wait(event) for event in events]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
