"""What a topic of the demo is: words that it understands, and what it does about them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra.scripted_model.demo.scenes import Scene
from infra.scripted_model.replies import Reply

FILE = r"[`'\"“]?(?P<path>/?\w[\w./-]*\.\w{1,8})[`'\"”]?"
"""A file's name, in quotes or not."""
END = r"(?:,? please)?\s*[?!.]*"
"""How a sentence ends."""

_POLITE = r"(?:(?:please|now|and|ok|so|(?:can|could|will|would) you)[, ]+)*"

Act = Callable[[Scene, "re.Match[str]"], Reply]


@dataclass(frozen=True)
class Topic:
    """Some words that the demo understands."""

    name: str
    about: str
    """What it does, in one sentence for the page."""
    examples: tuple[str, ...]
    """Words that work exactly as they stand here. The first one is suggested."""
    patterns: tuple[re.Pattern[str], ...]
    act: Act

    def found_in(self, prompt: str) -> re.Match[str] | None:
        """What the topic reads in a prompt; None if it is about something else."""
        return next(
            (found for one in self.patterns if (found := one.fullmatch(prompt.strip()))), None
        )


def topic(
    name: str, about: str, *, examples: Sequence[str], patterns: Sequence[str], act: Act
) -> Topic:
    """A topic whose patterns match whole prompts, whatever their case."""
    compiled = [re.compile(_POLITE + one, re.IGNORECASE | re.DOTALL) for one in patterns]
    return Topic(name, about, tuple(examples), tuple(compiled), act)
