"""What a shipped agent's demo is, and which agent a request is for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra.scripted_model.demo.scenes import Scene
from infra.scripted_model.replies import Reply


@dataclass(frozen=True)
class AgentDemo:
    """What an agent shows when it is asked for its own work."""

    name: str
    role: str
    """The words with which its prompt begins: the model knows its agent by them."""
    words: tuple[str, ...]
    """What to say to it, one for each turn of its demo."""
    act: Callable[[Scene], Reply]

    def is_asked(self, scene: Scene) -> bool:
        """Whether the request is this agent's."""
        return self.role in scene.system


def demo_of(scene: Scene, demos: Sequence[AgentDemo]) -> AgentDemo | None:
    """The demo of the agent that a request is for; None for any other agent."""
    return next((one for one in demos if one.is_asked(scene)), None)
