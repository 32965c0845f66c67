"""The beginning of an answer, used to tell two answers to the same message apart. Pure.

Clients send back the answers that they show, and these may differ from what the agent said last:
the user chose another version, or edited one. So the agent reports the head of each answer when the
turn ends, and the answers of the next request are compared with it. Whitespace is ignored, and so
is everything that clients and this service add for display. An answer that was cut off, or has text
added at its end, still agrees.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from infra.wire.events import (
    ClientCall,
    Event,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
    TurnStarted,
)

HEAD_CHARS = 200
"""The number of non-blank characters that are compared."""

HEADS_MAX = 2
"""An answer has one head for each way in which it may be shown."""

_READ_CHARS = 4 * HEAD_CHARS
"""Characters of a shown answer that are read at a time; more only if it is mostly blanks."""

_ADDED = re.compile(
    r"<think>.*?(?:</think>|\Z)"
    r'|<details type="(?:reasoning|tool_calls|code_interpreter)".*?(?:</details>|\Z)',
    re.DOTALL,
)
"""How chat programs show thinking and tools inside an answer."""

_FOLDED = re.compile(r'^<(?:(think)>|(details) type="tool_calls" [^>\n]*>)\r?\n', re.MULTILINE)
"""How begins what this service itself puts into a text to be folded (`api.turns.shown.folded`).
Some clients send other line ends than they got."""

LINE_OPENING = "> - \u2063"
"""How begins a line of a tool in a text (`api.turns.shown.lined`). Nobody sees the last sign."""

_LINE = re.compile(rf"^{LINE_OPENING}[^\n]*\n?", re.MULTILINE)

_TOLD_MARK = re.compile(
    r'<think>|<detailstype="(?:reasoning|tool_calls|code_interpreter)"|>-\u2063'
)
"""The same in a head, which has no blanks."""

_TOLD_MARK_CHARS = len('<detailstype="code_interpreter"')

_PARTED = re.compile(
    "|".join(
        f"{tag[:at]}\u200b{tag[at:]}"
        for tag in ("<think", "<details")
        for at in range(1, len(tag) + 1)
    ),
    re.IGNORECASE | re.ASCII,
)
"""The tags of the answer's own text, as this service shows them (`api.turns.shown.own_tags`)."""

_CUT_MARKS = ".…"

SUB_AGENTS = frozenset(("Agent", "Task"))
"""The tools that start sub-agents."""


class Head:
    """Collects the head of a text that arrives in pieces, without whitespace."""

    def __init__(self, max_chars: int = HEAD_CHARS) -> None:
        self._max_chars = max_chars
        self._head = ""

    @property
    def is_full(self) -> bool:
        """Whether more text would change nothing."""
        return len(self._head) >= self._max_chars

    @property
    def text(self) -> str:
        """The head so far."""
        return self._head

    def add(self, text: str) -> None:
        """Add more of the text."""
        if not self.is_full:
            self._head = (self._head + "".join(text.split()))[: self._max_chars]


class ToldHeads:
    """The heads of an answer, computed from its events: of its text alone, and of everything that
    may be shown.

    A deployment may show thinking and tools inside the answer's text. An answer that itself has the
    marks of what is added for display has no known heads: nobody can tell what comes back of it.
    """

    def __init__(self) -> None:
        self._text = Head(HEAD_CHARS + _TOLD_MARK_CHARS)
        self._all = Head(HEAD_CHARS + _TOLD_MARK_CHARS)
        self._sub_agents = SubAgents()

    def add(self, event: Event) -> None:
        """Add the next event."""
        if self._text.is_full and self._all.is_full:
            return
        match event:
            case TextDelta(text=text):
                self._text.add(text)
                self._all.add(text)
            case ThinkingDelta(text=text):
                self._all.add(text)
            case _ if line := describe(self._sub_agents.signed(event)):
                self._all.add(line)

    @property
    def heads(self) -> tuple[str, ...] | None:
        """Both heads, or one if they are equal; None if they are unknown."""
        told = (self._text.text, self._all.text)
        if any(_TOLD_MARK.search(text) for text in told):
            return None
        return tuple(dict.fromkeys(text[:HEAD_CHARS] for text in told))


def shown_head(text: str) -> str:
    """The head of an answer as a client sends it back."""
    head = Head()
    shown = _ADDED.sub("", text) if "<" in text[:_READ_CHARS] else text
    for begin in range(0, len(shown), _READ_CHARS):
        head.add(shown[begin : begin + _READ_CHARS])
        if head.is_full:
            break
    return head.text


def without_folded(text: str) -> str:
    """An answer that a client sends back, without the thinking and tools that this service showed
    inside it, and its own tags as it wrote them. Takes time in proportion to the text."""
    if LINE_OPENING in text:
        text = _LINE.sub("", text)
    kept: list[str] = []
    unclosed: set[str] = set()
    begin = at = 0
    while opening := _FOLDED.search(text, at):
        closing = f"\n</{opening[1] or opening[2]}>"
        end = -1 if closing in unclosed else text.find(closing, opening.end() - 1)
        if end < 0:
            unclosed.add(closing)
            at = opening.end()
        else:
            kept.append(text[begin : opening.start()])
            begin = at = end + len(closing)
    return _PARTED.sub(lambda tag: tag[0].replace("\u200b", ""), "".join([*kept, text[begin:]]))


def agree(told: Sequence[str] | None, shown: str | None) -> bool:
    """Whether a shown head may belong to an answer with these heads; None if that is unknown."""
    if told is None or shown is None:
        return True
    return any(_agree(head, shown) for head in told)


def _agree(told: str, shown: str) -> bool:
    if told.startswith(shown) or (told and shown.startswith(told)):
        return True
    cut = shown.rstrip(_CUT_MARKS)
    return bool(cut) and told.startswith(cut)


class SubAgents:
    """The running sub-agents. If several run at the same time, each line names its sub-agent.

    A nested sub-agent does not count as running beside its parent.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, str] = {}
        self._parents: dict[str, str | None] = {}
        # Most answers have no sub-agent, and an empty set is large.
        self._working: frozenset[str] = frozenset()
        self._crowded: frozenset[str] = frozenset()

    def signed(self, event: Event) -> Event:
        """The event, with the task of its sub-agent if others run beside that one."""
        if isinstance(event, ToolCall) and event.name in SUB_AGENTS:
            self._begin(event)
        if not isinstance(event, ToolCall | ToolResult):
            return event
        if isinstance(event, ToolResult):
            self._working -= {event.id}
            if event.id in self._crowded:
                summary = f"{self._tasks[event.id]}: {event.summary}"
                return event.model_copy(update={"summary": summary})
        if event.parent in self._crowded:
            name = f"{self._tasks[event.parent]} › {event.name}"
            return event.model_copy(update={"name": name})
        return event

    def _begin(self, call: ToolCall) -> None:
        self._tasks[call.id] = call.summary or call.name
        self._parents[call.id] = call.parent
        if beside := self._working - self._around(call):
            self._crowded |= beside | {call.id}
        self._working |= {call.id}

    def _around(self, call: ToolCall) -> set[str]:
        """The sub-agents that it works for."""
        around: set[str] = set()
        parent = call.parent
        while parent is not None and parent not in around:
            around.add(parent)
            parent = self._parents.get(parent)
        return around


def describe(event: Event) -> str | None:
    """One readable line about what the agent does; None for events that are not shown."""
    match event:
        case ToolCall():
            line = f"{event.name}: {event.summary}" if event.summary else event.name
        case ToolResult():
            sign = "✗" if event.is_error else "→"
            line = f"{event.name} {sign} {event.summary}".rstrip()
        case Notice():
            return event.text
        case TurnStarted() | TextDelta() | ThinkingDelta() | ClientCall() | TurnEnded():
            return None
    return f"  {line}" if event.parent else line
