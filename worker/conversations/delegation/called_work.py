"""What a called agent has done and said, as its caller is told of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from infra.wire.agents.delegation import ANSWER_MAX_CHARS
from infra.wire.events import Artifact, Event, TextDelta, ToolCall, ToolResult, TurnEnded, TurnFiles
from infra.wire.ids import ConversationKey, FileId
from infra.wire.states import TurnState

SHOWN_MAX = 200
"""Events of a called agent that are shown in its caller's answer."""

_LEFT_OUT = "[The beginning of its answer is left out.]\n"
_FILES_NAMED_MAX = 50


class CalledWork:
    """One turn of a called agent."""

    def __init__(self, agent: str, conversation: ConversationKey) -> None:
        self._agent = agent
        self._conversation = conversation
        self._text = ""
        self._is_cut = False
        self._shown = 0

    def take(self, event: Event) -> ToolCall | ToolResult | None:
        """Note an event. Returns what is to be shown of it."""
        if isinstance(event, TextDelta):
            self._text += event.text
            if len(self._text) > 2 * ANSWER_MAX_CHARS:
                self._cut()
        # Not of its sub-agents: one level below the call is shown.
        if isinstance(event, ToolCall | ToolResult) and event.parent is None:
            self._shown += 1
            return event if self._shown <= SHOWN_MAX else None
        return None

    def answer(self, end: TurnEnded, *, landed: Mapping[FileId, str]) -> str:
        """What the caller's model reads when it has ended like this. `landed`: where the files that
        it made are in the caller's workspace."""
        self._cut()
        said = (_LEFT_OUT if self._is_cut else "") + self._text.strip()
        goes_on = f"[Conversation {self._conversation} of {self._agent}]"
        parts = [_failed(end), said, *_files(end.made, landed), goes_on]
        return "\n\n".join(part for part in parts if part)

    def _cut(self) -> None:
        """Its conclusion counts, so the end is kept."""
        self._is_cut = self._is_cut or len(self._text) > ANSWER_MAX_CHARS
        self._text = self._text[-ANSWER_MAX_CHARS:]


def _failed(end: TurnEnded) -> str:
    if end.state is TurnState.DONE:
        return ""
    why = end.error.message if end.error else "It was stopped."
    return f"The agent did not finish: {why}"


def _files(made: TurnFiles | None, landed: Mapping[FileId, str]) -> Iterator[str]:
    if made is not None and made.files:
        lines = [_line(file, landed.get(file.file)) for file in made.files[:_FILES_NAMED_MAX]]
        yield "Files that it made:\n" + "\n".join(lines)


def _line(file: Artifact, place: str | None) -> str:
    if place is None:
        return f"- {file.path}, {file.bytes:,} bytes (not here)"
    return f"- {place}, {file.bytes:,} bytes"
