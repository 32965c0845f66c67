"""Turns the events of a turn into A2A's updates of a task, and updates into a task. Pure.

The text of a turn is one artifact that grows. Each file that it made is one more, with a signed
link. What the agent does meanwhile is told by the task's status; its thinking is not told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a2a.types import (
    Artifact,
    Message,
    Part,
    Role,
    StreamResponse,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from api.a2a.names import task_id
from api.errors import message_of
from api.files.links import FileLinks
from api.turns.shown.channels import read_end
from infra.wire.errors import ErrorCode, TurnFailed, UnknownMessage
from infra.wire.events import Artifact as MadeFile
from infra.wire.events import (
    ClientCall,
    EndReason,
    Event,
    Notice,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnFiles,
    TurnStarted,
    decode_event,
    is_end,
    text_literal,
    thinking_literal,
)
from infra.wire.history.answers import SubAgents, describe
from infra.wire.ids import TURN_PREFIX, TurnId
from infra.wire.states import TurnState
from infra.wire.text.characters import Pieces, whole

ANSWER = "answer"
"""The name of the artifact with a turn's text."""
ASKED_MAX_CHARS = 16_000
"""Of the text that ends with a question, the last are repeated in the status."""

_KINDS: Mapping[type, str] = {
    ToolCall: "tool_call",
    ToolResult: "tool_result",
    Notice: "notice",
}
_ENDS: Mapping[EndReason, TaskState] = {
    EndReason.DONE: TaskState.TASK_STATE_COMPLETED,
    EndReason.CALLS: TaskState.TASK_STATE_INPUT_REQUIRED,
    EndReason.LENGTH: TaskState.TASK_STATE_COMPLETED,
    EndReason.REFUSED: TaskState.TASK_STATE_REJECTED,
}
_STATES: Mapping[TurnState, TaskState] = {
    TurnState.QUEUED: TaskState.TASK_STATE_SUBMITTED,
    TurnState.CLAIMED: TaskState.TASK_STATE_SUBMITTED,
    TurnState.RUNNING: TaskState.TASK_STATE_WORKING,
}


@dataclass(frozen=True)
class TaskDisplay:
    """How a caller is shown tasks."""

    base_url: str
    """Where this API is reached, for links to files that cannot be signed."""
    tells_work: bool = True
    """Whether the status tells what the agent does."""


@dataclass(frozen=True)
class TaskNames:
    """What each update of a task says of it."""

    task: str
    context: str
    display: TaskDisplay
    links: FileLinks


def task_of(names: TaskNames, state: TurnState, *, at_ms: int) -> Task:
    """A task of which nothing is known yet but the state of its newest turn."""
    working = TaskState.TASK_STATE_WORKING
    return Task(
        id=names.task,
        context_id=names.context,
        status=TaskStatus(state=_STATES.get(state, working), timestamp=_time(at_ms)),
    )


class TurnUpdates:
    """The updates of one turn, event by event."""

    def __init__(self, turn: TurnId, names: TaskNames) -> None:
        self._turn = turn
        self._names = names
        self._pieces = Pieces()
        self._sub_agents = SubAgents()
        self._artifact = f"{ANSWER}-{turn.removeprefix(TURN_PREFIX)}"
        self._has_text = False
        self._said = ""
        """The newest text."""
        self.is_ended = False

    def of(self, events: Sequence[bytes], *, first: int, at_ms: int) -> list[StreamResponse]:
        """The updates of these events; `first` is the number of the first of them. Texts that
        follow one another are one update."""
        updates: list[StreamResponse] = []
        text = ""
        for n, payload in enumerate(events, first):
            if (literal := text_literal(payload)) is not None:
                text += self._pieces.add(json.loads(literal))
                continue
            if thinking_literal(payload) is not None:
                continue
            if is_end(payload):
                updates += self._text(text + self._pieces.end())
                updates += self._end(payload, n, at_ms=at_ms)
                return updates
            if (update := self._told(payload, n, at_ms=at_ms)) is not None:
                updates += self._text(text)
                text = ""
                updates.append(update)
        return updates + self._text(text)

    def _text(self, text: str) -> list[StreamResponse]:
        if not text:
            return []
        self._said = (self._said + text)[-ASKED_MAX_CHARS:]
        update = self._artifact_update(Part(text=text), append=self._has_text)
        self._has_text = True
        return [update]

    def _artifact_update(
        self, part: Part, *, append: bool, is_last: bool = False
    ) -> StreamResponse:
        return StreamResponse(
            artifact_update=TaskArtifactUpdateEvent(
                task_id=self._names.task,
                context_id=self._names.context,
                artifact=Artifact(artifact_id=self._artifact, name=ANSWER, parts=[part]),
                append=append,
                last_chunk=is_last,
            )
        )

    def _told(self, payload: bytes, n: int, *, at_ms: int) -> StreamResponse | None:
        """The status that an event makes, if any."""
        try:
            event: Event = decode_event(payload)
        except UnknownMessage:
            return None
        working = TaskState.TASK_STATE_WORKING
        if isinstance(event, TurnStarted):
            return self._status(working, n, at_ms=at_ms)
        if isinstance(event, ClientCall) or not self._names.display.tells_work:
            return None
        line = describe(self._sub_agents.signed(event))
        if not line:
            return None
        kind = {"kind": _KINDS[type(event)]} if type(event) in _KINDS else {}
        return self._status(working, n, at_ms=at_ms, text=line, metadata=kind)

    def _end(self, payload: bytes, n: int, *, at_ms: int) -> Iterator[StreamResponse]:
        self.is_ended = True
        if self._has_text:
            yield self._artifact_update(Part(text=""), append=True, is_last=True)
        try:
            end = read_end(payload)
        except TurnFailed as error:
            yield self._failed(error, n, at_ms=at_ms)
            return
        yield from map(self._file, (end.made or TurnFiles()).files)
        state = TaskState.TASK_STATE_INPUT_REQUIRED if end.asks else _ENDS[end.end_reason]
        is_asked = state == TaskState.TASK_STATE_INPUT_REQUIRED
        asked = self._said if is_asked else ""
        yield self._status(state, n, at_ms=at_ms, text=asked, metadata=_metadata(end))

    def _failed(self, error: TurnFailed, n: int, *, at_ms: int) -> StreamResponse:
        if error.code is ErrorCode.TURN_CANCELLED:
            return self._status(TaskState.TASK_STATE_CANCELED, n, at_ms=at_ms)
        return self._status(
            TaskState.TASK_STATE_FAILED,
            n,
            at_ms=at_ms,
            text=message_of(error),
            metadata={"code": error.code.value},
        )

    def _file(self, made: MadeFile) -> StreamResponse:
        url = self._names.links.link(made)
        part = Part(
            url=url or f"{self._names.display.base_url}/v1/files/{made.file}/content",
            filename=made.path.rpartition("/")[2],
            media_type=made.media_type,
        )
        told = {"path": made.path, "bytes": made.bytes, "expiresAt": made.expires_ms // 1000}
        return StreamResponse(
            artifact_update=TaskArtifactUpdateEvent(
                task_id=self._names.task,
                context_id=self._names.context,
                artifact=Artifact(
                    artifact_id=made.file, name=made.path, parts=[part], metadata=_struct(told)
                ),
                last_chunk=True,
            )
        )

    def _status(
        self,
        state: TaskState,
        n: int,
        *,
        at_ms: int,
        text: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> StreamResponse:
        status = TaskStatus(state=state, timestamp=_time(at_ms))
        if text:
            status.message.CopyFrom(
                Message(
                    message_id=f"{task_id(self._turn)}-{n}",
                    context_id=self._names.context,
                    task_id=self._names.task,
                    role=Role.ROLE_AGENT,
                    parts=[Part(text=whole(text))],
                )
            )
        update = TaskStatusUpdateEvent(
            task_id=self._names.task, context_id=self._names.context, status=status
        )
        if metadata:
            update.metadata.CopyFrom(_struct(metadata))
        return StreamResponse(status_update=update)


def _metadata(end: TurnEnded) -> Mapping[str, Any]:
    """What the end says beside its state."""
    told: dict[str, Any] = {
        "endReason": end.end_reason.value,
        "usage": {
            "inputTokens": end.usage.total_input_tokens,
            "outputTokens": end.usage.output_tokens,
        },
    }
    made = end.made or TurnFiles()
    if made.not_kept or made.more:
        told["notKept"] = list(made.not_kept)
        told["notKeptMore"] = made.more
    return told


def _struct(told: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update(told)
    return struct


def _time(at_ms: int) -> Timestamp:
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)
