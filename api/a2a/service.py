"""What A2A can ask of an agent, independent of the binding that it asks in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskState,
)
from a2a.utils.errors import TaskNotCancelableError, UnsupportedOperationError

from api.a2a.errors import ProtocolRefusal
from api.a2a.names import context_name, task_id
from api.a2a.read import MessageReader
from api.a2a.tasks import KeptTask, Tasks
from api.a2a.updates import TaskDisplay, TurnUpdates, task_of
from api.http.auth import Caller
from api.turns.ask import Ask
from api.turns.following.open_answer import OpenAnswer
from api.turns.lookup import TurnLookup
from api.turns.turn_opener import TurnOpener
from infra.runtime.clock import Clock
from infra.runtime.settings import ToolDisplay
from infra.wire.agents.profile import AgentProfile
from infra.wire.errors import RequestRefused, TurnFailed
from infra.wire.states import TurnState

CANCEL_SLACK_S = 2.0
"""Seconds that a cancel waits for the turn's own end, beyond an interrupted agent's grace time."""
PAGE_SIZE = 50
PAGE_SIZE_MAX = 100


@dataclass(frozen=True)
class AgentCall:
    """Who calls which agent, and where from."""

    caller: Caller
    agent: str
    headers: Mapping[str, str]
    base_url: str
    """Where this API is reached, without a slash at its end."""
    size: int = 0
    """Of the body in bytes."""

    def sized(self, size: int) -> AgentCall:
        """The call, with a body of this size."""
        return replace(self, size=size)


@dataclass(frozen=True)
class RunningTask:
    """A task with its newest turn open. Anybody who has it leaves the turn."""

    task: Task
    """As it stands before the turn's next event."""
    turn: OpenAnswer
    updates: TurnUpdates


class AgentService:
    """Serves the agents of one replica."""

    def __init__(
        self,
        reader: MessageReader,
        *,
        tasks: Tasks,
        turns: TurnOpener,
        lookup: TurnLookup,
        clock: Clock,
        cancel_grace_s: float,
        tool_display: ToolDisplay,
    ) -> None:
        """`cancel_grace_s`: what an interrupted agent has to end its turn."""
        self._reader = reader
        self._tasks = tasks
        self._turns = turns
        self._lookup = lookup
        self._clock = clock
        self._tool_display = tool_display
        self._cancel_s = cancel_grace_s + CANCEL_SLACK_S

    async def send(self, sent: SendMessageRequest, call: AgentCall) -> RunningTask:
        """Hand a message to the agent: a new task, or an answer to one that waits.

        Repeated with the same `messageId` it gets the turn of the first time. Raises
        `RequestRefused`, `ProtocolRefusal`, `TurnNotFound` and `StoreUnavailable`.
        """
        ask = await self._reader.read(
            sent,
            call.caller,
            agent=call.agent,
            headers=call.headers,
            base_url=call.base_url,
            size=call.size,
        )
        before: KeptTask | None = None
        if sent.message.task_id:
            before = await self._tasks.find(sent.message.task_id, call.caller, agent=call.agent)
            ask = await self._answering(before, sent, ask)
        turn = await self._turns.open(ask)
        try:
            return await self._begun(turn, before, ask, self._display_by(ask.profile, call))
        except BaseException:
            turn.leave(hung_up=True)
            raise

    async def get(self, asked: GetTaskRequest, call: AgentCall) -> Task:
        """A task as it is now. Raises `TurnNotFound` and `StoreUnavailable`."""
        display = await self._display(call)
        found = await self._tasks.find(asked.id, call.caller, agent=call.agent)
        return (await self._tasks.snapshot(found, display=display)).task

    async def list(self, asked: ListTasksRequest, call: AgentCall) -> ListTasksResponse:
        """The tasks of a context, the newest first. Raises `RequestRefused` and
        `StoreUnavailable`."""
        display = await self._display(call)
        if not asked.context_id:
            raise RequestRefused(
                "Tasks are listed by context: send `contextId`. GET /v1/sessions lists those.",
                param="contextId",
            )
        size, start = _page(asked)
        context = context_name(asked.context_id)
        kept = await self._tasks.within(context, call.caller, agent=call.agent)
        page, total, end = list[Task](), 0, start + size
        for one in kept:
            # One at a time, and no more than the page is kept: texts may be long.
            if (task := await self._shown(one, asked, display)) is not None:
                if start <= total < end:
                    page.append(task)
                total += 1
        return ListTasksResponse(
            tasks=page,
            next_page_token=str(end) if end < total else "",
            page_size=size,
            total_size=total,
        )

    async def cancel(self, asked: CancelTaskRequest, call: AgentCall) -> Task:
        """Stop a task and return it, most often canceled by then.

        Raises `ProtocolRefusal` if nothing of it runs, `TurnNotFound` and `StoreUnavailable`.
        """
        display = await self._display(call)
        found = await self._tasks.find(asked.id, call.caller, agent=call.agent)
        if found.newest.state.is_terminal:
            raise ProtocolRefusal(
                TaskNotCancelableError,
                "The task waits for its user, and nothing runs."
                if found.is_waiting
                else "The task has ended.",
            )
        await self._lookup.cancel(found.newest.turn, call.caller)
        await self._until_ended(found)
        found = await self._tasks.find(asked.id, call.caller, agent=call.agent)
        return (await self._tasks.snapshot(found, display=display)).task

    async def subscribe(self, asked: SubscribeToTaskRequest, call: AgentCall) -> RunningTask | Task:
        """Follow a task from now on; the task alone if it waits for its user.

        Raises `ProtocolRefusal` if it has ended, `TurnNotFound`, `RequestRefused` (too many open
        answers) and `StoreUnavailable`.
        """
        display = await self._display(call)
        found = await self._tasks.find(asked.id, call.caller, agent=call.agent)
        if found.is_over:
            raise ProtocolRefusal(UnsupportedOperationError, "The task has ended: get it instead.")
        shot = await self._tasks.snapshot(found, display=display)
        if shot.updates.is_ended:
            return shot.task
        return RunningTask(
            shot.task, await self._lookup.follow(found.newest, after=shot.upto), shot.updates
        )

    async def let_run(self, running: RunningTask, call: AgentCall) -> Task:
        """Leave a task to itself, and return it as it is now. Raises `StoreUnavailable`."""
        running.turn.leave(hung_up=False)
        display = await self._display(call)
        found = await self._tasks.find(running.task.id, call.caller, agent=call.agent)
        return (await self._tasks.snapshot(found, display=display)).task

    async def _display(self, call: AgentCall) -> TaskDisplay:
        """How its agent is shown. Raises `RequestRefused` if there is no such agent."""
        chosen = await self._reader.choose(call.agent, call.caller)
        return self._display_by(chosen.profile, call)

    def _display_by(self, profile: AgentProfile | None, call: AgentCall) -> TaskDisplay:
        own = profile.tool_display if profile else None
        tells_work = (own or self._tool_display) != ToolDisplay.OFF
        return TaskDisplay(call.base_url, tells_work)

    async def _answering(self, before: KeptTask, sent: SendMessageRequest, ask: Ask) -> Ask:
        """What a message to a task that there is asks for."""
        if sent.message.context_id not in ("", before.context):
            raise RequestRefused("The task belongs to another context.", param="message.contextId")
        ask = replace(ask, name=before.context)
        if before.is_waiting:
            return ask
        assert ask.repeat is not None, "every message has its id"
        earlier = await self._lookup.repeated(ask.caller, ask.repeat.digest(ask.name))
        if earlier is not None and earlier in [record.turn for record in before.turns]:
            return ask  # It comes again: its turn answers it.
        raise ProtocolRefusal(
            UnsupportedOperationError,
            "The task has ended. Send the message without `taskId`: a new task in this context."
            if before.is_over
            else "The task is at work. Send more when it asks, or a new task in this context.",
        )

    async def _begun(
        self,
        turn: OpenAnswer,
        before: KeptTask | None,
        ask: Ask,
        display: TaskDisplay,
    ) -> RunningTask:
        assert ask.name is not None, "every message has a context"
        id = before.id if before else task_id(turn.id)
        names = self._tasks.names(id, ask.name, display=display)
        task = task_of(names, TurnState.QUEUED, at_ms=self._clock.unix_ms())
        if before is not None:
            earlier = [record for record in before.turns if record.turn != turn.id]
            if earlier:
                shot = await self._tasks.snapshot(replace(before, turns=earlier), display=display)
                task.artifacts.extend(shot.task.artifacts)
        return RunningTask(task, turn, TurnUpdates(turn.id, names))

    async def _shown(
        self, kept: KeptTask, asked: ListTasksRequest, display: TaskDisplay
    ) -> Task | None:
        """The task as a list shows it; None if it is not asked for."""
        shot = await self._tasks.snapshot(kept, display=display)
        task = shot.growing.told(with_artifacts=asked.include_artifacts)
        is_asked = asked.status in (TaskState.TASK_STATE_UNSPECIFIED, task.status.state)
        after = asked.status_timestamp_after
        if asked.HasField("status_timestamp_after") and (
            (task.status.timestamp.seconds, task.status.timestamp.nanos)
            < (after.seconds, after.nanos)
        ):
            return None
        return task if is_asked else None

    async def _until_ended(self, task: KeptTask) -> None:
        """Wait until the newest turn has ended, or its time is over."""
        open_turn = self._lookup.open(task.newest, after=task.newest.seq)
        try:
            with suppress(TimeoutError, TurnFailed):
                async with asyncio.timeout(self._cancel_s):
                    async for _ in open_turn.relay:
                        pass
        finally:
            open_turn.leave(hung_up=False)


def _page(asked: ListTasksRequest) -> tuple[int, int]:
    """Its size, and where it begins."""
    size = asked.page_size if asked.HasField("page_size") else PAGE_SIZE
    if not 1 <= size <= PAGE_SIZE_MAX:
        raise RequestRefused(f"`pageSize` must be from 1 to {PAGE_SIZE_MAX}.", param="pageSize")
    token = asked.page_token
    if token and not (token.isascii() and token.isdecimal() and len(token) < 6):
        raise RequestRefused("`pageToken` is none of ours.", param="pageToken")
    return size, int(token or "0")
