"""The demo with sub-agents: it gives one a task, and plays the sub-agent as well. Pure."""

from __future__ import annotations

import re
import textwrap

from infra.scripted_model.demo.scenes import Scene, Told, bash, play, say
from infra.scripted_model.demo.topics import END, topic
from infra.scripted_model.replies import Reply, ToolUse

TASK = "Demo task for a sub-agent: "
"""How a task of the demo begins. The model that gets it plays the sub-agent."""
COUNT = "count the files"

_REPORT = re.compile(r"(?:.*The report follows:\n)?(.*?)(?:\s*agentId: .*)?", re.DOTALL)
"""What the CLI writes around a sub-agent's report."""
_BUILT_IN = "general-purpose"
_COUNT = "find /workspace -type f -not -path '*/.*' | wc -l"


def delegating(scene: Scene, said: str, *, to: str, task: str) -> Reply:
    """Words, and a call that gives a sub-agent a task of the demo."""
    given = {"subagent_type": to, "description": task.capitalize(), "prompt": TASK + task}
    return say(said, ToolUse(scene.delegate or "Agent", given))


def _delegate(scene: Scene, found: re.Match[str]) -> Reply:
    def first(scene: Scene) -> Reply:
        return delegating(
            scene,
            "I give a part of the work to a sub-agent. It has a context of its own, so what it "
            "reads does not fill mine.",
            to=_BUILT_IN,
            task=COUNT,
        )

    def second(scene: Scene) -> Reply:
        return say(f"The sub-agent reports:\n\n> {report_of(scene.last)}")

    return play(scene, [first, second])


def report_of(told: Told) -> str:
    """What a sub-agent reported, in its own words."""
    found = _REPORT.fullmatch(told.text)
    return textwrap.dedent(found[1] if found else told.text).strip() or "(nothing)"


def count(scene: Scene) -> Reply:
    """What the sub-agent does."""

    def second(scene: Scene) -> Reply:
        return say(f"There are {scene.last.text.strip()} files in the workspace.")

    return play(scene, [lambda _: say("", bash(_COUNT, "Count the files")), second])


TOPICS = (
    topic(
        "use a sub-agent",
        "Gives a sub-agent a task and reports what it found.",
        examples=["use a sub-agent"],
        patterns=[rf"(?:use|start|ask|call)(?: an?| the| your)? sub-?agents?{END}"],
        act=_delegate,
    ),
)
