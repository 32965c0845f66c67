"""The model's hosts: containers, and in each an agent that keeps its events until acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from infra.wire.errors import AgentUnreachable, LeaseLost
from infra.wire.events import (
    TextDelta,
    ToolCall,
    TurnEnded,
    TurnStarted,
    encode_event,
)
from infra.wire.ids import ConversationKey, Fence, HostId, TurnId
from infra.wire.states import TurnState
from tests.fakes.virtual_time import Kernel, Process, pause
from worker.hosts.host import Container, ContainerId

TOOL_EVENT = 3
"""The event with which a tool has run."""

_runs = count(1)


@dataclass(frozen=True)
class Task:
    """What a turn makes its agent do."""

    events: int
    every_s: float


@dataclass
class AgentTurn:
    """A turn in the agent: what it said and is not yet rid of."""

    turn: TurnId
    task: Task
    run: int = field(default_factory=lambda: next(_runs))
    kept: dict[int, bytes] = field(default_factory=dict)
    last_n: int = 0
    acked_n: int = 0
    is_ended: bool = False
    is_interrupted: bool = False

    @property
    def is_settled(self) -> bool:
        return self.is_ended and self.acked_n >= self.last_n


class Link:
    """A worker's connection to an agent, good until another one takes its place."""

    def __init__(self, box: Box, fence: Fence) -> None:
        self._box = box
        self.fence = fence
        self.inbox: list[tuple[TurnId, int, bytes]] = []
        """What the agent has sent: it is here also when the link has been cut since."""
        self.agent_turn = box.open_turn.turn if box.open_turn else None
        """What the welcome said."""

    @property
    def is_open(self) -> bool:
        return not self._box.process.is_dead and self._box.link is self

    def start(self, turn: TurnId, task: Task) -> None:
        if self.is_open:
            self._box.begin(turn, task)

    def interrupt(self, turn: TurnId) -> None:
        if self.is_open and (running := self._box.turn_named(turn)):
            running.is_interrupted = True

    def replay(self, turn: TurnId, *, after: int) -> None:
        """Have everything sent that is newer."""
        if self.is_open and (running := self._box.turn_named(turn)):
            self.inbox = [(turn, n, said) for n, said in running.kept.items() if n > after]

    def take(self) -> list[tuple[TurnId, int, bytes]]:
        """What has arrived since."""
        arrived, self.inbox = self.inbox, []
        return arrived

    def ack(self, turn: TurnId, n: int) -> None:
        if self.is_open and (running := self._box.turn_named(turn)):
            running.acked_n = max(running.acked_n, n)
            for old in [kept for kept in running.kept if kept <= n]:
                del running.kept[old]


class Box:
    """A container and its agent, which refuses a lower fence than it has seen."""

    def __init__(self, id: ContainerId, c: ConversationKey, fence: Fence) -> None:
        self.id = id
        self.conversation = c
        self.process = Process(id)
        self.fence = fence
        self.seen_fence = Fence(0)
        self.link: Link | None = None
        self.on_start: Callable[[AgentTurn], None] = lambda turn: None
        self.on_tool: Callable[[AgentTurn], None] = lambda turn: None
        self._turn: AgentTurn | None = None
        self._just_ended: TurnId | None = None
        self._starts: list[AgentTurn] = []

    @property
    def open_turn(self) -> AgentTurn | None:
        if self._turn is not None and self._turn.is_settled:
            self._turn = None
        return self._turn

    def turn_named(self, turn: TurnId) -> AgentTurn | None:
        running = self.open_turn
        return running if running and running.turn == turn else None

    def greet(self, fence: Fence) -> Link:
        """Raises `AgentUnreachable`."""
        if self.process.is_dead:
            raise AgentUnreachable("the container is gone")
        if fence < self.seen_fence:
            raise AgentUnreachable(f"fence {fence} is older than {self.seen_fence}")
        self.seen_fence = fence
        self.link = Link(self, fence)
        return self.link

    def begin(self, turn: TurnId, task: Task) -> None:
        """Idempotent for a turn that runs or has just ended; takes the place of an ended one."""
        running = self.open_turn
        if turn == self._just_ended or (running and (running.turn == turn or not running.is_ended)):
            return
        self._turn = AgentTurn(turn, task)
        self.on_start(self._turn)
        self._starts.append(self._turn)

    async def live(self) -> None:
        while True:
            if not self._starts:
                await pause(0.1)
                continue
            turn = self._starts.pop()
            await self._play(turn)

    def _say(self, turn: AgentTurn, payload: bytes) -> None:
        turn.last_n += 1
        turn.kept[turn.last_n] = payload
        if self.link is not None:
            self.link.inbox.append((turn.turn, turn.last_n, payload))

    async def _play(self, turn: AgentTurn) -> None:
        self._say(turn, encode_event(TurnStarted(sdk_session=f"run-{turn.run}", model="model")))
        while turn.last_n < turn.task.events and not turn.is_interrupted:
            await pause(turn.task.every_s)
            if turn.last_n + 1 == TOOL_EVENT:
                self.on_tool(turn)
                self._say(
                    turn, encode_event(ToolCall(id=f"run-{turn.run}", name="Bash", summary="ls"))
                )
            else:
                self._say(
                    turn, encode_event(TextDelta(text=f"run {turn.run} word {turn.last_n + 1}"))
                )
        state = TurnState.CANCELLED if turn.is_interrupted else TurnState.DONE
        self._say(turn, encode_event(TurnEnded(state=state)))
        turn.is_ended = True
        self._just_ended = turn.turn


class Machine:
    """A host: its containers outlive its workers, and not itself."""

    def __init__(self, host: HostId, kernel: Kernel) -> None:
        self.host = host
        self.boxes: dict[ContainerId, Box] = {}
        self.on_start: Callable[[AgentTurn], None] = lambda turn: None
        self.on_tool: Callable[[AgentTurn], None] = lambda turn: None
        self._kernel = kernel
        self._numbers = count(1)

    def list(self) -> list[Container]:
        return [
            Container(box.id, box.conversation, box.fence, not box.process.is_dead, 0)
            for box in self.boxes.values()
        ]

    def of(self, c: ConversationKey) -> Box | None:
        return next((b for b in self.boxes.values() if b.conversation == c), None)

    def start(self, c: ConversationKey, fence: Fence) -> Box:
        """See `ContainerHost.start`. Raises `LeaseLost`."""
        if (found := self.of(c)) is not None:
            if found.fence > fence:
                raise LeaseLost(c, fence)
            self.remove(found.id)
        id = ContainerId(f"{self.host}-box-{next(self._numbers)}")
        box = self.boxes[id] = Box(id, c, fence)
        box.on_start, box.on_tool = self.on_start, self.on_tool
        self._kernel.spawn(box.process, box.live())
        return box

    def remove(self, id: ContainerId) -> None:
        if box := self.boxes.pop(id, None):
            box.process.is_dead = True

    def lose_power(self) -> None:
        for id in list(self.boxes):
            self.remove(id)
