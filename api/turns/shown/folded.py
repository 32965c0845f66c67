"""Shows thinking and tools inside an answer's text, where they happened, in the marks that Open
WebUI folds.

- Thinking stands between `<think>` and `</think>`. Open WebUI makes a block of it while it arrives,
  and leaves it out of the history that it resends.
- A tool is a `<details type="tool_calls">` block, with its output to unfold. A text can only grow,
  so the block is written when the tool has ended. While it runs, its line is an `AgentStatus`: Open
  WebUI shows that above the answer and keeps it out of the text.

The blocks come back with the next request: `infra.wire.history.answers.without_folded` takes them
out. What the model or a program wrote cannot end a block or begin one.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from api.turns.chain import AnswerHead
from api.turns.shown.channels import Channels, PieceKind
from api.turns.shown.own_tags import SaidText, without_tags
from infra.runtime.settings import ToolDisplay
from infra.wire.events import Event, Notice, ToolCall, ToolResult
from infra.wire.history.answers import describe

_NAME_MAX_CHARS = 240
_RUNNING_MAX = 64
"""A hostile agent may call tools without end; what runs beyond this is shown without its input."""

_LOOKS = str.maketrans({"<": "‹", ">": "›", '"': "'"})
"""A name is shown as it is written, so it has no escapes: it gets characters that look the same."""


class AgentStatus(NamedTuple):
    """What the agent is doing now. It is no part of the answer."""

    line: str
    is_over: bool
    """Whether it can be taken off the page."""


class FoldedChannels(Channels):
    """The channels of an answer that shows everything inside its text.

    An answer that has to be JSON has nothing inside its text: it falls back to the reasoning.
    """

    def __init__(self, *, head: AnswerHead | None = None) -> None:
        super().__init__(ToolDisplay.INLINE, head=head)
        self._running: dict[str, str] = {}
        self._news: list[AgentStatus] = []
        self._is_busy = False
        self._said = SaidText()

    def news(self) -> Sequence[AgentStatus]:
        """The statuses since the last call."""
        news, self._news = self._news, []
        return news

    def end(self) -> bytes | None:
        """The literal that closes what is still open, for an answer that ends now."""
        if self._is_busy:
            self._tell("", is_over=True)
        if not self._is_folding or self._kind.get(False) is not PieceKind.THINKING:
            return None
        return self._shown(False, PieceKind.TOOL, b'""')[1]

    def note(self, line: str) -> bytes:
        self._tell(line)  # Reasoning beside the text would have Open WebUI fold nothing more.
        return b'""'

    def plain(self, payloads: Sequence[bytes]) -> tuple[bool, list[bytes]] | None:
        shown = super().plain(payloads)
        if shown is None or not self._is_folding:
            return shown
        return False, list(map(self._plain(self._kind[False]), shown[1]))

    @property
    def _is_folding(self) -> bool:
        return self._display is ToolDisplay.INLINE

    def _plain(self, kind: PieceKind) -> Callable[[bytes], bytes]:
        """Takes out of what the model wrote what would be folded."""
        return self._said.shown if kind is PieceKind.TEXT else without_tags

    def _shown(self, is_reasoning: bool, kind: PieceKind, literal: bytes) -> tuple[bool, bytes]:
        if not self._is_folding:
            return super()._shown(is_reasoning, kind, literal)
        said, before = literal, self._kind.get(False)
        if kind is not before:
            self._said = SaidText()
        if kind is not PieceKind.TOOL:
            literal = self._plain(kind)(literal)
        if kind is not before:
            literal = b'"' + _turn(before, kind) + literal[1:]
            self._kind[False] = kind
        if kind is PieceKind.TEXT and self._head is not None and not self._head.is_full:
            self._head.add(json.loads(said))
        return False, literal

    def _told(self, event: Event) -> str | None:
        if not self._is_folding:
            return super()._told(event)
        line = (describe(event) or "").strip()
        match event:
            case ToolCall():
                line = f"↳ {line}" if event.parent else line
                if len(self._running) < _RUNNING_MAX:
                    self._running[event.id] = line
                self._tell(line)
                return ""  # Ends the thinking before it.
            case ToolResult():
                call = self._running.pop(event.id, event.name)
                self._tell(next(reversed(self._running.values()), ""), is_over=not self._running)
                return _block(call, event)
            case Notice():
                self._tell(line)
        return None

    def _tell(self, line: str, *, is_over: bool = False) -> None:
        self._is_busy = not is_over
        self._news.append(AgentStatus(line=_one_line(line), is_over=is_over))


def _turn(before: PieceKind | None, kind: PieceKind) -> bytes:
    """What stands between two kinds, as the inside of a JSON string."""
    closing = rb"\n</think>\n\n" if before is PieceKind.THINKING else b""
    if kind is PieceKind.THINKING:
        return (rb"\n\n" if before is PieceKind.TEXT else b"") + rb"<think>\n"
    return closing or (rb"\n\n" if before is PieceKind.TEXT else b"")


def _block(call: str, result: ToolResult) -> str:
    failed = ' status="failed"' if result.is_error else ""
    given = html.escape(
        json.dumps({result.name: call.removeprefix(f"{result.name}: ")}, ensure_ascii=False)
    )
    output = html.escape(result.excerpt or result.summary, quote=False)
    return (
        f'<details type="tool_calls" done="true" id="{html.escape(_one_line(result.id))}"'
        f' name="{_one_line(call).translate(_LOOKS)}"{failed} arguments="{given}">\n'
        f"<summary>Tool</summary>\n{output}\n</details>\n"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_NAME_MAX_CHARS]
