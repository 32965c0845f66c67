"""The demo with commands: it runs what one names and shows the output. Pure."""

from __future__ import annotations

import re

from infra.scripted_model.demo.scenes import Scene, bash, play, say, shown
from infra.scripted_model.demo.topics import topic
from infra.scripted_model.replies import Reply


def _run(scene: Scene, found: re.Match[str]) -> Reply:
    command = found["command"].strip().strip("`")

    def second(scene: Scene) -> Reply:
        how = "It failed, and said" if scene.last.is_error else "It said"
        return say(f"{how}:\n\n{shown(scene.last)}")

    return play(
        scene,
        [
            lambda _: say(
                f"I run `{command}` in the sandbox of this conversation.",
                bash(command, "Run the command"),
                thought="A command to run. The sandbox has no network and no one else's files.",
            ),
            second,
        ],
    )


TOPICS = (
    topic(
        "run a command",
        "Runs the command in the agent's sandbox and shows its output.",
        examples=["run echo $((6 * 7))", "run `id`", "$ uname -s"],
        patterns=[
            r"(?:run|execute)(?: the)?(?: command)?:? (?P<command>.+)",
            r"\$ (?P<command>.+)",
        ],
        act=_run,
    ),
)
