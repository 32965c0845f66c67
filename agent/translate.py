"""What the Agent SDK says, as our events. Pure: messages in, events out, no clock and no I/O.

The hard part is a model stream that breaks. The CLI then starts the message again, streamed or as
one finished `AssistantMessage`, always under a new message id; a relay of deltas alone would lose
or double text. So what was shown of an abandoned message is remembered, its repetition is swallowed
as long as it says the same, and where it differs the new text follows a visible rule.

Left out on purpose: text of `<synthetic>` messages (the CLI's prose about API errors, which the
result tells better), what the CLI writes to itself as a user (reminders, "Set model"), and text of
sub-agents (their calls are told, with their parent).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    Message,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from agent.ends import CliEnd, ending
from agent.tools import summarise_call, summarise_result
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

RULE = "\n\n---\n\n"
"""Stands between an abandoned text and the one that replaces it."""

PARAGRAPH = "\n\n"
"""Stands between the texts of two messages, which are read as one answer."""

_SYNTHETIC = "<synthetic>"
_CUT = frozenset({"max_tokens", "model_context_window_exceeded"})
"""After these the CLI has the model go on where it was cut."""

_WITHHELD = (
    "The model's safeguards stopped the answer; it is asked to go on without what they stopped."
)
_USAGE_FIELDS = tuple(Usage.model_fields)


class Translator:
    """Reads the messages of one turn, in order."""

    def __init__(self, prompt_id: str) -> None:
        """`prompt_id` is the uuid the prompt was sent with."""
        self._prompt_id = prompt_id
        self._text = _Voice(TextDelta)
        self._thinking = _Voice(ThinkingDelta)
        self._message: _Told | None = None
        self._is_continued = False
        self._has_started = False
        self._tools: dict[str, str] = {}
        self._error_kind: str | None = None
        self._was_refused = False
        self._checkpoint: str | None = None
        self._streamed = dict.fromkeys(_USAGE_FIELDS, 0)
        self.sdk_session: str | None = None

    @property
    def usage(self) -> Usage:
        """Tokens as the stream told them so far: for a turn that never gets its result."""
        return Usage(**self._streamed)

    def read(self, message: Message, interrupt: InterruptReason | None = None) -> Iterator[Event]:
        """The events a message stands for; a `TurnEnded` is the last of the turn.

        `interrupt` says that the turn has been asked to stop, and decides how it ends.
        """
        match message:
            case StreamEvent(parent_tool_use_id=None):
                yield from self._read_stream(message.event)
            case AssistantMessage():
                yield from self._read_assistant(message)
            case UserMessage(content=list() as blocks):
                for block in blocks:
                    if isinstance(block, ToolResultBlock):
                        yield self._tool_result(block, message.parent_tool_use_id)
            case SystemMessage():
                yield from self._read_system(message)
            case ResultMessage() if self._is_ours(message):
                yield from self._end_message()
                yield from self._read_result(message, interrupt)

    # Deltas

    def _read_stream(self, event: Mapping[str, Any]) -> Iterator[Event]:
        match event:
            case {"type": "message_start", "message": {"id": str() as id, **rest}}:
                yield from self._begin_message(id)
                self._count(rest.get("usage"))
            case {
                "type": "content_block_start",
                "content_block": {"type": "text", "text": str() as text},
            }:
                yield from self._stream_text(text, is_new_block=True)
            case {"type": "content_block_delta", "delta": {"text": str() as text}}:
                yield from self._stream_text(text)
            case {"type": "content_block_delta", "delta": {"thinking": str() as thinking}}:
                yield from self._stream_thinking(thinking)
            case {"type": "message_delta", "delta": delta, **rest}:
                self._count(rest.get("usage"), is_final=True)
                self._was_refused |= delta.get("stop_reason") == "refusal"
                if self._message is not None:
                    self._message.stop_reason = delta.get("stop_reason") or "end_turn"

    def _stream_text(self, text: str, *, is_new_block: bool = False) -> Iterator[Event]:
        if self._message is not None:
            self._message.add(text, is_new_block=is_new_block)
        yield from self._text.say(text)

    def _stream_thinking(self, thinking: str) -> Iterator[Event]:
        if self._message is not None:
            self._message.has_thinking = True
        yield from self._thinking.say(thinking)

    # Messages begin and end

    def _begin_message(self, id: str) -> Iterator[Event]:
        is_retry = self._message is not None and self._message.is_broken
        yield from self._end_message()
        self._message = _Told(id)
        for voice in (self._text, self._thinking):
            if is_retry:
                voice.repeat()
            else:
                voice.begin(is_continued=self._is_continued)

    def _end_message(self) -> Iterator[Event]:
        """Close the message under way; a retry that said less than its predecessor is told now."""
        message, self._message = self._message, None
        if message is not None and not message.is_broken:
            self._is_continued = message.stop_reason in _CUT
            yield from self._text.settle()
            yield from self._thinking.settle()

    # Finished blocks

    def _read_assistant(self, message: AssistantMessage) -> Iterator[Event]:
        is_main = message.parent_tool_use_id is None
        if is_main and message.error is not None:
            self._error_kind = message.error
        if message.model == _SYNTHETIC:
            return
        if is_main:
            self._checkpoint = message.uuid or self._checkpoint
        for block in message.content:
            if isinstance(block, ToolUseBlock):
                self._tools[block.id] = block.name
                yield ToolCall(
                    id=block.id,
                    name=block.name,
                    summary=summarise_call(block.name, block.input),
                    parent=message.parent_tool_use_id,
                )
            elif is_main and isinstance(block, TextBlock | ThinkingBlock):
                yield from self._complete(message.message_id or "", block)

    def _complete(self, id: str, block: TextBlock | ThinkingBlock) -> Iterator[Event]:
        """Say what a finished block holds beyond what was streamed of it."""
        if self._message is None or self._message.id != id:
            yield from self._begin_message(id)
            assert self._message is not None
            self._message.is_streamed = False
        told = self._message
        if isinstance(block, ThinkingBlock):
            if not told.has_thinking:
                yield from self._thinking.say(block.thinking)
        elif not told.is_streamed:
            yield from self._text.say(block.text)
        else:
            streamed = told.next_block()
            if block.text.startswith(streamed):
                yield from self._text.say(block.text[len(streamed) :])
            else:
                yield from self._text.replace(block.text)

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
        )

    def _read_system(self, message: SystemMessage) -> Iterator[Event]:
        data = message.data
        match message.subtype, data:
            case "init", {"session_id": str() as session, "model": str() as model}:
                self.sdk_session = session
                if not self._has_started:
                    self._has_started = True
                    yield TurnStarted(sdk_session=session, model=model)
            case "api_retry", _:
                yield Notice(text=_retry_words(data))
            case "status", {"status": "compacting"}:
                yield Notice(text="The conversation is long; it is being summarised.")
            case "informational", {"content": str() as content} if "safeguards" in content:
                yield Notice(text=_WITHHELD)

    def _is_ours(self, message: ResultMessage) -> bool:
        """A result may belong to an earlier prompt that was interrupted before it began."""
        ids = message.user_message_uuids
        return not ids or self._prompt_id in ids

    def _read_result(
        self, message: ResultMessage, interrupt: InterruptReason | None
    ) -> Iterator[Event]:
        self.sdk_session = message.session_id or self.sdk_session
        if message.subtype == "error_max_turns":
            yield Notice(text="The turn reached its limit of model calls and stops here.")
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
        """The result's figures; those of the stream for a turn that was cut before its result."""
        told = {name: _number(message.usage, name) for name in _USAGE_FIELDS}
        return Usage(**(told if any(told.values()) else self._streamed))

    def _count(self, usage: object, *, is_final: bool = False) -> None:
        if is_final:
            self._streamed["output_tokens"] += _number(usage, "output_tokens")
            return
        for name in _USAGE_FIELDS:
            if name != "output_tokens":
                self._streamed[name] += _number(usage, name)


class _Told:
    """What was streamed of the message under way, block by block."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.is_streamed = True
        self.has_thinking = False
        self.stop_reason: str | None = None
        self._blocks: list[list[str]] = []
        self._completed = 0

    @property
    def is_broken(self) -> bool:
        """Whether its stream ended without a stop reason: another try of it follows, if any."""
        return self.is_streamed and self.stop_reason is None

    def add(self, text: str, *, is_new_block: bool) -> None:
        if is_new_block or not self._blocks:
            self._blocks.append([])
        self._blocks[-1].append(text)

    def next_block(self) -> str:
        """The streamed text of the block that is now said to be finished."""
        self._completed += 1
        blocks = self._blocks
        return "".join(blocks[self._completed - 1]) if self._completed <= len(blocks) else ""


class _Voice:
    """One kind of text over a whole turn, each word once.

    While a message is repeated, `_shown` is what the user saw of it before and `_repeated` how much
    of that the repetition has said so far.
    """

    def __init__(self, delta: type[TextDelta | ThinkingDelta]) -> None:
        self._delta = delta
        self._said: list[str] = []
        self._shown = ""
        self._repeated = 0
        self._has_spoken = False
        self._is_paragraph = False

    def begin(self, *, is_continued: bool) -> None:
        """Another message; `is_continued`: it goes on in the middle of a thought."""
        self._said, self._shown, self._repeated = [], "", 0
        self._is_paragraph = self._has_spoken and not is_continued

    def repeat(self) -> None:
        """The same message from its beginning."""
        # A try that only repeated showed nothing new: what stands there is the try before.
        if not self._shown:
            self._shown = "".join(self._said)
        self._said, self._repeated = [], 0

    def say(self, text: str) -> Iterator[Event]:
        """New text, unless it repeats what stands there already."""
        if not text:
            return
        if not self._shown:
            self._said.append(text)
            yield self._speak(text)
            return
        rest = self._shown[self._repeated :]
        if rest.startswith(text) and len(text) < len(rest):
            self._repeated += len(text)
        elif text.startswith(rest):
            self._said, self._shown = [self._shown, text[len(rest) :]], ""
            if new := text[len(rest) :]:
                yield self._speak(new)
        else:
            yield from self.replace(self._shown[: self._repeated] + text)

    def replace(self, text: str) -> Iterator[Event]:
        """The message is another one than was shown: rule it off and say it whole."""
        self._said, self._shown, self._is_paragraph = [text], "", False
        yield self._delta(text=RULE + text)

    def settle(self) -> Iterator[Event]:
        """The message is complete; one that is shorter than its first try is said again."""
        if self._shown and self._repeated:
            yield from self.replace(self._shown[: self._repeated])
        self._shown = ""

    def _speak(self, text: str) -> Event:
        prefix = PARAGRAPH if self._is_paragraph else ""
        self._is_paragraph, self._has_spoken = False, True
        return self._delta(text=prefix + text)


def _retry_words(data: Mapping[str, Any]) -> str:
    status, attempt, tries = data.get("error_status"), data.get("attempt"), data.get("max_retries")
    what = f"answered {status}" if isinstance(status, int) else "could not be reached"
    return f"The model's service {what}; trying again ({attempt} of {tries})."


def _loop_end(message: ResultMessage) -> str | None:
    """Older results name the limit of calls in their subtype only."""
    return "max_turns" if message.subtype == "error_max_turns" else message.terminal_reason


def _number(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) else 0
