"""Translates the Agent SDK's messages into our events. Pure: no clock and no I/O.

The difficult part is a model stream that breaks. How the CLI reacts was found out by experiment
(`tests/contract/agent/test_broken_streams.py`). A finished text block stays, a finished tool call
runs, and the model is asked to continue from there. Without a finished block, the CLI repeats the
message, streamed or as one finished `AssistantMessage`, always under a new message id. A plain
relay of deltas would lose or repeat text (`agent.translate.voice`).

Left out on purpose: text of `<synthetic>` messages (the CLI's text about API errors; the result has
more details), what the CLI writes to itself as a user (reminders, "Set model"), and text of
sub-agents (their tool calls are reported, with their parent).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    Message,
    ResultMessage,
    ServerToolUseBlock,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from agent.translate.ends import PAUSES, CliEnd, ending
from agent.translate.mcp import LastWords, missing_servers, shown_name
from agent.translate.tools import (
    excerpt_of,
    summarise_call,
    summarise_result,
    summarise_server_result,
)
from agent.translate.voice import Voice
from infra.wire.events import (
    Event,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    TurnStarted,
    Usage,
)
from infra.wire.link import InterruptReason
from infra.wire.model.upstream import usage_figures

_SYNTHETIC = "<synthetic>"
_KINDS: Mapping[type, str] = {
    TextBlock: "text",
    ThinkingBlock: "thinking",
    ToolUseBlock: "tool_use",
    ServerToolUseBlock: "server_tool_use",
}
_CUT = frozenset({"max_tokens", "model_context_window_exceeded"})
"""After these the CLI asks the model to continue where it was cut off."""

_PAUSED = "The model's service paused in the middle of the answer. Ask for the rest to go on."
_WITHHELD = (
    "The model's safeguards stopped the answer; it is asked to go on without what they stopped."
)


IsHeld = Callable[[str, str, Mapping[str, Any]], bool]
"""Whether a call stays open until its user has approved it, by its id, tool and input."""


class Translator:
    """Reads the messages of one turn, in order."""

    def __init__(
        self,
        prompt_id: str,
        *,
        offered: Container[str] = (),
        last_words: LastWords = lambda _: None,
        is_held: IsHeld | None = None,
    ) -> None:
        """`prompt_id` is the uuid with which the prompt was sent, `offered` the names of tools that
        nobody runs here (`agent.cli.offers`): their calls, and those that are held, are not shown
        as the agent's work. `last_words` are those of MCP servers in the container."""
        self._last_words = last_words
        self._prompt_ids = {prompt_id}
        self._offered = offered
        self._is_held = is_held
        self.offered_calls: list[str] = []
        """The ids of these calls of the main thread."""
        self._text = Voice(TextDelta, is_kept=True)
        # Thinking alone does not survive a broken stream.
        self._thinking = Voice(ThinkingDelta, is_kept=False)
        self._message: _Message | None = None
        self._last_block: str | None = None
        """The kind of the main thread's last block; None if there is a gap after it."""
        self._has_started = False
        self._tools: dict[str, str] = {}
        self._error_kind: str | None = None
        self._was_refused = False
        self._has_compacted = False
        self._checkpoint: str | None = None
        self._streamed = Usage()
        self.sdk_session: str | None = None

    @property
    def usage(self) -> Usage:
        """Tokens that the stream has reported so far, for a turn that never gets its result."""
        return self._streamed

    def expect(self, prompt_id: str) -> None:
        """A further prompt of the same turn is sent."""
        self._prompt_ids.add(prompt_id)

    def read(self, message: Message, interrupt: InterruptReason | None = None) -> Iterator[Event]:
        """The events for a message; a `TurnEnded` is the turn's last.

        `interrupt`: the turn was asked to stop, which decides how it ends.
        """
        match message:
            case StreamEvent(parent_tool_use_id=None):
                yield from self._read_stream(message.event)
            case AssistantMessage():
                yield from self._read_assistant(message)
            case UserMessage(content=list() as blocks):
                for block in blocks:
                    if not isinstance(block, ToolResultBlock):
                        continue
                    if block.tool_use_id not in self.offered_calls:
                        yield self._tool_result(block, message.parent_tool_use_id)
            case SystemMessage():
                yield from self._read_system(message)
            case ResultMessage() if self._is_ours(message):
                if self._message is None or not self._message.is_broken:
                    yield from self._settle()
                yield from self._read_result(message, interrupt)

    # Deltas

    def _read_stream(self, event: Mapping[str, Any]) -> Iterator[Event]:
        match event:
            case {"type": "message_start", "message": {"id": str() as id, **rest}}:
                yield from self._begin_message(id, is_streamed=True)
                self._count(rest.get("usage"))
            case {"type": "content_block_start", "content_block": {"type": str() as kind, **rest}}:
                yield from self._begin_block(kind, opening=rest.get("text"))
                if kind.endswith("_tool_result"):
                    yield self._server_result(str(rest.get("tool_use_id")), rest.get("content"))
            case {"delta": {"type": "text_delta", "text": str() as text}}:
                yield from self._text.say(text)
            case {"delta": {"type": "thinking_delta", "thinking": str() as thinking}}:
                yield from self._thinking.say(thinking)
            case {"type": "message_delta", "delta": delta, **rest}:
                self._count(rest.get("usage"), is_final=True)
                self._was_refused |= delta.get("stop_reason") == "refusal"
                if self._message is not None:
                    self._message.stop_reason = delta.get("stop_reason") or "end_turn"

    # Messages and blocks

    def _begin_message(self, id: str, *, is_streamed: bool) -> Iterator[Event]:
        """Another try of the previous message, the rest of it, or a new message."""
        before, goes_on = self._message, False
        if before is not None and before.is_broken and not before.has_call:
            if before.has_text and not self._text.has_partial:
                goes_on = True
                yield from self._settle()
            else:
                goes_on = self._text.has_partial or before.goes_on
                self._text.repeat()
                self._thinking.repeat()
        else:
            goes_on = before is not None and before.stop_reason in _CUT
            yield from self._settle()
        if not goes_on:
            self._last_block = None
        self._message = _Message(id, is_streamed=is_streamed, goes_on=goes_on)

    def _settle(self) -> Iterator[Event]:
        """The current message is over. If a retry is shorter than the first try, its text is
        reported now."""
        yield from self._text.settle()
        yield from self._thinking.settle()

    def _begin_block(self, kind: str, *, opening: object = None) -> Iterator[Event]:
        """Adjacent text blocks are one text: citations split sentences into blocks."""
        is_apart, self._last_block = self._last_block != kind, kind
        match kind:
            case "text":
                said = opening if isinstance(opening, str) else ""
                yield from self._text.begin_block(opening=said, is_apart=is_apart)
            case "thinking":
                yield from self._thinking.begin_block(is_apart=is_apart)

    def _read_assistant(self, message: AssistantMessage) -> Iterator[Event]:
        is_main = message.parent_tool_use_id is None
        if is_main and message.error is not None:
            self._error_kind = message.error
        if message.model == _SYNTHETIC:
            return
        if is_main:
            self._checkpoint = message.uuid or self._checkpoint
            yield from self._finish_blocks(message)
        for block in message.content:
            if isinstance(block, ToolUseBlock | ServerToolUseBlock):
                self._tools[block.id] = shown_name(block.name)
                if is_main and self._stays_open(block):
                    self.offered_calls.append(block.id)
                    continue
                yield ToolCall(
                    id=block.id,
                    name=self._tools[block.id],
                    summary=summarise_call(block.name, block.input),
                    parent=message.parent_tool_use_id,
                )

    def _stays_open(self, call: ToolUseBlock | ServerToolUseBlock) -> bool:
        if call.name in self._offered:
            return True
        return self._is_held is not None and self._is_held(call.id, call.name, call.input)

    def _finish_blocks(self, message: AssistantMessage) -> Iterator[Event]:
        """The main thread's blocks are complete: report what their stream left out."""
        id = message.message_id or ""
        if self._message is None or self._message.id != id:
            yield from self._begin_message(id, is_streamed=False)
        assert self._message is not None
        told = self._message
        if not message.content:
            self._last_block = "unknown"  # A kind of block that the SDK leaves out here.
        for block in message.content:
            if not told.is_streamed:
                yield from self._begin_block(_KINDS.get(type(block), "unknown"))
            match block:
                case TextBlock():
                    told.has_text = True
                    yield from self._text.finish(block.text)
                case ThinkingBlock():
                    yield from self._thinking.finish(block.thinking)
                case ToolUseBlock():
                    told.has_call = True

    # Tools, notices, the end

    def _tool_result(self, block: ToolResultBlock, parent: str | None) -> ToolResult:
        is_error = bool(block.is_error)
        name = self._tools.get(block.tool_use_id, "tool")
        return ToolResult(
            id=block.tool_use_id,
            name=name,
            summary=summarise_result(name, block.content, is_error=is_error),
            is_error=is_error,
            parent=parent,
            excerpt=excerpt_of(name, block.content),
        )

    def _server_result(self, id: str, content: object) -> ToolResult:
        """Reported by the stream only: the SDK leaves these blocks out of its messages."""
        summary, is_error = summarise_server_result(content)
        name = self._tools.get(id, "tool")
        return ToolResult(id=id, name=name, summary=summary, is_error=is_error)

    def _read_system(self, message: SystemMessage) -> Iterator[Event]:
        data = message.data
        match message.subtype, data:
            case "init", {"session_id": str() as session, "model": str() as model}:
                self.sdk_session = session
                if not self._has_started:
                    self._has_started = True
                    yield TurnStarted(sdk_session=session, model=model)
                    for text in missing_servers(data, self._last_words):
                        yield Notice(text=text)
            case "api_retry", _:
                yield Notice(text=_retry_words(data))
            case "status", {"status": "compacting"} if not self._has_compacted:
                self._has_compacted = True
                yield Notice(text="The conversation is long; it is being summarised.")
            case "informational", {"content": str() as content} if "safeguards" in content:
                yield Notice(text=_WITHHELD)

    def _is_ours(self, message: ResultMessage) -> bool:
        """A result may belong to an earlier prompt that was interrupted before it started."""
        ids = message.user_message_uuids
        return not ids or not self._prompt_ids.isdisjoint(ids)

    def _read_result(
        self, message: ResultMessage, interrupt: InterruptReason | None
    ) -> Iterator[Event]:
        self.sdk_session = message.session_id or self.sdk_session
        if message.subtype == "error_max_turns":
            yield Notice(text="The turn reached its limit of model calls and stops here.")
        if message.stop_reason in PAUSES and interrupt is None:
            yield Notice(text=_PAUSED)
        ended = ending(self._end_told(message), interrupt)
        yield ended.model_copy(
            update={"usage": self._usage_of(message), "checkpoint": self._checkpoint}
        )

    def _end_told(self, message: ResultMessage) -> CliEnd:
        return CliEnd(
            is_error=message.is_error,
            stop_reason=message.stop_reason,
            loop_end=_loop_end(message),
            is_api_error=message.subtype == "success",
            status=message.api_error_status,
            kind=self._error_kind,
            prose=message.result or "",
            was_refused=self._was_refused or message.stop_reason == "refusal",
        )

    def _usage_of(self, message: ResultMessage) -> Usage:
        """The result's figures, or the stream's for a turn that was cut off before its result.

        Neither includes sub-agents, searches and summaries. The gateway meters those, and its
        figures count.
        """
        told = Usage(**usage_figures(message.usage))
        return told if told != Usage() else self._streamed

    def _count(self, usage: object, *, is_final: bool = False) -> None:
        """A message reports its input when it starts and its output when it ends."""
        told = Usage(**usage_figures(usage))
        output = {"output_tokens": told.output_tokens, "thinking_tokens": told.thinking_tokens}
        if is_final:
            self._streamed += Usage(**output)
        else:
            self._streamed += told.model_copy(update=dict.fromkeys(output, 0))


class _Message:
    """The current or last message of the model."""

    def __init__(self, id: str, *, is_streamed: bool, goes_on: bool) -> None:
        self.id = id
        self.is_streamed = is_streamed
        self.goes_on = goes_on
        """Whether it begins where the text before it was cut off."""
        self.stop_reason: str | None = None
        self.has_text = False
        """Whether a text block is finished, which means that the agent remembers it."""
        self.has_call = False
        """Whether a tool call is finished and runs, so that the next message is not a retry."""

    @property
    def is_broken(self) -> bool:
        """Whether its stream ended without a stop reason."""
        return self.is_streamed and self.stop_reason is None


def _retry_words(data: Mapping[str, Any]) -> str:
    # Not how many the CLI would make at most: the gateway tells it earlier when no more will help.
    status, attempt = data.get("error_status"), data.get("attempt")
    what = f"answered {status}" if isinstance(status, int) else "could not be reached"
    return f"The model's service {what}; trying again (retry {attempt})."


def _loop_end(message: ResultMessage) -> str | None:
    """Older results report the limit of calls only in their subtype."""
    return "max_turns" if message.subtype == "error_max_turns" else message.terminal_reason
