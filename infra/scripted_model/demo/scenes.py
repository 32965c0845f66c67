"""One moment of a demo conversation, and how the model speaks in it. Pure.

A scene is a list of steps. Each message of the model uses up one step, so nothing about a
conversation is kept: what was done is read from the request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from infra.scripted_model.asked import (
    Asked,
    Prompt,
    all_said_by_person,
    blocks_of,
    said_by_person,
    texts_of,
    told_by_tool,
)
from infra.scripted_model.replies import Block, Reply, Stop, Text, Thinking, ToolUse, words

PACE_S = 0.02
"""Slow enough to see that the answer is streamed."""
LONGEST_S = 1.5
"""A long message is streamed faster, so that nobody waits for it."""

_DELTA_CHARS = 24
_QUOTED_CHARS = 200
_SHOWN_CHARS = 1500
_REMARK = re.compile(r"\n?\[This command modified [^\n]*\]\s*$")
"""What the CLI adds for the model."""
_NUMBERED = re.compile(r"^ *\d+(?:→|\t|$)", re.MULTILINE)


class Told(NamedTuple):
    """What a tool told."""

    text: str
    is_error: bool


@dataclass(frozen=True)
class Scene:
    """A request, seen as a moment of the demo."""

    asked: Asked
    prompt: Prompt
    skipped: int = 0
    """Steps that belong to the scene before this one, in the same turn."""

    @property
    def step(self) -> int:
        """How many messages of this scene were given."""
        return max(0, self.prompt.answered - self.skipped)

    @property
    def results(self) -> Sequence[Told]:
        """What the tools of this scene told, one for each step."""
        found: list[Told] = []
        for message in reversed(self.asked.messages):
            if said_by_person(message):
                break
            if (told := told_by_tool(message)) is not None:
                text, is_error = told
                found.insert(0, Told(_REMARK.sub("", text), is_error))
        return found[self.skipped :]

    @property
    def last(self) -> Told:
        """The newest of them; empty if there is none."""
        return self.results[-1] if self.results else Told("", False)

    @property
    def earlier(self) -> Sequence[str]:
        """What the person said before, oldest first."""
        said = [one for message in self.asked.messages for one in all_said_by_person(message)]
        return said[:-1]

    @property
    def answer_before(self) -> str:
        """The model's newest words before the prompt."""
        messages = list(self.asked.messages)
        while messages and not said_by_person(messages.pop()):
            pass
        spoken = [m for m in messages if m.get("role") == "assistant"]
        return "".join(texts_of(spoken[-1])) if spoken else ""

    @property
    def system(self) -> str:
        """The system prompt, as text."""
        return json.dumps(self.asked.body.get("system") or "", ensure_ascii=False)

    @property
    def delegate(self) -> str | None:
        """The tool that gives a task to a sub-agent, by the name that it has here."""
        return next((name for name in ("Agent", "Task") if self.can(name)), None)

    def can(self, tool: str) -> bool:
        """Whether the agent has a tool."""
        return tool in self.asked.tool_names

    def has_called(self, tool: str, **given: str) -> bool:
        """Whether the model made such a call anywhere in the conversation."""
        return any(
            block.get("name") == tool and given.items() <= dict(block.get("input") or {}).items()
            for block in self._calls()
        )

    def after(self, steps: int) -> Scene:
        """The scene that begins so many steps later, in the same turn."""
        return replace(self, skipped=self.skipped + steps)

    def _calls(self) -> Iterator[Mapping[str, Any]]:
        for message in self.asked.messages:
            yield from (block for block in blocks_of(message) if block.get("type") == "tool_use")


Step = Callable[[Scene], Reply]


def play(scene: Scene, steps: Sequence[Step]) -> Reply:
    """The step whose turn it is; the last one again after the end."""
    return steps[min(scene.step, len(steps) - 1)](scene)


def say(said: str, *calls: ToolUse, thought: str | None = None) -> Reply:
    """Words, and calls of tools after them."""
    thinking: tuple[Block, ...] = (Thinking(words(thought)),) if thought else ()
    spoken: tuple[Block, ...] = (Text(words(said)),) if said else ()
    stop = Stop.TOOL_USE if calls else Stop.END_TURN
    return paced(Reply((*thinking, *spoken, *calls), stop=stop))


def paced(reply: Reply) -> Reply:
    """The reply at a pace that one can follow."""
    deltas = sum(map(_deltas, reply.blocks))
    return replace(reply, pace_s=min(PACE_S, LONGEST_S / max(1, deltas)))


def _deltas(block: Block) -> int:
    if isinstance(block, ToolUse):
        return len(json.dumps(dict(block.input))) // _DELTA_CHARS + 1
    return len(block.pieces) if isinstance(block, Text | Thinking) else 1


def bash(command: str, about: str) -> ToolUse:
    """A call of the shell."""
    return ToolUse("Bash", {"command": command, "description": about})


def write(path: str, content: str) -> ToolUse:
    """A call that writes a file of the workspace."""
    return ToolUse("Write", {"file_path": in_workspace(path), "content": content})


def in_workspace(path: str) -> str:
    """A path as the tools want it."""
    return path if path.startswith("/") else f"/workspace/{path}"


def quoted(said: str) -> str:
    """Somebody's words, in one line."""
    line = " ".join(said.split())
    return line if len(line) <= _QUOTED_CHARS else line[: _QUOTED_CHARS - 1] + "…"


def shown(told: Told) -> str:
    """What a tool told, as a block of code."""
    text = told.text.strip("\n") or "(nothing)"
    cut = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "\n…"
    fence = "````" if "```" in cut else "```"
    return f"{fence}\n{cut}\n{fence}"


def without_numbers(told: Told) -> Told:
    """What `Read` told, without the numbers before its lines."""
    return told._replace(text=_NUMBERED.sub("", told.text))
