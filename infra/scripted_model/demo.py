"""What the scripted model says to somebody who simply talks to it: a tour of what agents can do.

With tools it thinks, looks around with Bash, writes a file and sums up; in later turns it reads the
file back, which shows that the conversation is still the same. Without tools (a title, a plain
chat) it answers in one sentence. Pure.
"""

from __future__ import annotations

from infra.scripted_model.replies import Block, Reply, Stop, Text, Thinking, ToolUse, words
from infra.scripted_model.samples import form_tool
from infra.scripted_model.script import Asked, Prompt, complying, said_by_person, told_by_tool

FILE = "/workspace/hello.md"
PACE_S = 0.02
"""Slow enough to see that the answer is streamed."""

_QUOTED_CHARS = 200
_COMMAND = "uname -a && id && ls -la /workspace"
_HELLO = """# Hello from your agent

This file was written by an agent that runs in its own isolated container.
It has no network of its own and never holds your API key.
"""


def showcase(asked: Asked, prompt: Prompt) -> Reply:
    """The next step of the tour, by what has been done since the prompt."""
    if _must_comply(asked, prompt) and (call := complying(asked)):
        return call
    wanted = _first_turn if _turns(asked) <= 1 else _later_turn
    steps = [step for step in wanted(asked, prompt) if _can(asked, step)]
    return steps[min(prompt.answered, len(steps) - 1)]


def _must_comply(asked: Asked, prompt: Prompt) -> bool:
    """Whether the tour is over and the answer has to have a form."""
    return form_tool(asked.tools) is not None and prompt.answered >= 2


def _first_turn(asked: Asked, prompt: Prompt) -> list[Reply]:
    return [
        _step(
            "The user wants to see something. There is no real model behind me, so I show what "
            "an agent does: look around, write a file, tell what happened.",
            f"Hello! You said: “{_quoted(prompt.text)}”.\n\nI am the scripted demo model: "
            "there is no real Claude behind me, but everything around me is real. A Claude "
            "agent runs for you in an isolated container. First I look around in it:",
            ToolUse("Bash", {"command": _COMMAND, "description": "Look around"}),
        ),
        _step(
            None,
            "\n\nThat was a real shell. Now I write a file:",
            ToolUse("Write", {"file_path": FILE, "content": _HELLO}),
        ),
        _closing(asked),
    ]


def _later_turn(asked: Asked, prompt: Prompt) -> list[Reply]:
    return [
        _step(
            "The user came back. If this is still the same conversation, the file is there.",
            f"This is turn {_turns(asked)} of our conversation, and you said: "
            f"“{_quoted(prompt.text)}”. I am still the scripted demo model. Let me see "
            "whether my file is still there:",
            ToolUse("Bash", {"command": f"cat {FILE}", "description": "Read the file back"}),
        ),
        _closing(asked),
    ]


def _closing(asked: Asked) -> Reply:
    told = [found for message in asked.messages if (found := told_by_tool(message))]
    if not told:
        return _step(
            None,
            "Hello! I am the scripted demo model of AgCluster: there is no real Claude behind me. "
            "Set a real upstream and your own key to talk to one.",
        )
    outcome = (
        "\n\nThe tool did not succeed, and you can see why above; a real model would now mend it."
        if told[-1][1]
        else f"\n\nDone: {FILE} lies in the workspace of this conversation."
    )
    return _step(
        None,
        f"{outcome} Ask me anything, and I read it back. To talk to a real model, start AgCluster "
        "without --demo and send your Anthropic API key.",
    )


def _step(thought: str | None, said: str, call: ToolUse | None = None) -> Reply:
    thinking: tuple[Block, ...] = (Thinking(words(thought)),) if thought else ()
    calls: tuple[Block, ...] = (call,) if call else ()
    return Reply(
        (*thinking, Text(words(said)), *calls),
        stop=Stop.TOOL_USE if call else Stop.END_TURN,
        pace_s=PACE_S,
    )


def _can(asked: Asked, step: Reply) -> bool:
    """Whether the client offers the tools of a step; a step without any always can."""
    offered = set(asked.tool_names)
    return all(not isinstance(block, ToolUse) or block.name in offered for block in step.blocks)


def _turns(asked: Asked) -> int:
    return sum(1 for message in asked.messages if said_by_person(message))


def _quoted(said: str) -> str:
    line = " ".join(said.split())
    return line if len(line) <= _QUOTED_CHARS else line[: _QUOTED_CHARS - 1] + "…"
