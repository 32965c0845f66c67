"""The demo's first words: a tour, and a list of what it understands. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from infra.scripted_model.demo.scenes import Scene, bash, play, quoted, say, write
from infra.scripted_model.demo.topics import Topic
from infra.scripted_model.replies import Reply

FILE = "/workspace/hello.md"

_LOOK = "uname -a && id && ls -la /workspace"
_HELLO = """# Hello from your agent

This file was written by an agent that runs in its own isolated container.
It has no network of its own and never holds your API key.
"""


def tour(scene: Scene) -> Reply:
    """Look around, write a file, sum up."""
    return play(scene, [_look_around, _write_hello, _sum_up])


def _look_around(scene: Scene) -> Reply:
    return say(
        f"Hello! You said: “{quoted(scene.prompt.text)}”.\n\nI am the scripted demo model: "
        "there is no real Claude behind me, but everything around me is real. A Claude "
        "agent runs for you in an isolated container. First I look around in it:",
        bash(_LOOK, "Look around"),
        thought="The user wants to see something. There is no real model behind me, so I show what "
        "an agent does: look around, write a file, tell what happened.",
    )


def _write_hello(scene: Scene) -> Reply:
    return say("That was a real shell. Now I write a file:", write(FILE, _HELLO))


def _sum_up(scene: Scene) -> Reply:
    if scene.last.is_error:
        return say(
            "The tool did not succeed, and you can see why above; a real model would now mend it."
        )
    return say(
        f"Done: {FILE} lies in the workspace of this conversation. To talk to a real model, "
        "start AgCluster without --demo and send your Anthropic API key."
    )


def in_short() -> Reply:
    """For a request without tools, such as one for a title."""
    return say(
        "Hello! I am the scripted demo model of AgCluster: there is no real Claude behind me. "
        "Set a real upstream and your own key to talk to one."
    )


def not_understood(scene: Scene, topics: Sequence[Topic]) -> Reply:
    """For words that are none of the demo's."""
    return say(
        f"You said: “{quoted(scene.prompt.text)}”. I am the scripted demo model, so I understand "
        f"some sentences only:\n\n{_listed(topics)}"
    )


def list_words(topics: Sequence[Topic]) -> Reply:
    """All that it understands."""
    return say(f"I am the scripted demo model. I understand:\n\n{_listed(topics)}")


def _listed(topics: Sequence[Topic]) -> str:
    return "\n".join(f"- **{one.examples[0]}**: {one.about}" for one in topics)
