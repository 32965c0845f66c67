"""A lifecycle that refuses steps its table does not have, and remembers its last ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from infra.wire.states import advance

STORY_MAX = 20
"""Steps a `Life` remembers, for the error that an illegal one raises."""


State = TypeVar("State", bound=StrEnum)


class Life(Generic[State]):
    """One thing's state, moved by its table only, with the story of its last steps."""

    def __init__(self, thing: str, start: State, table: Mapping[State, frozenset[State]]) -> None:
        self.state = start
        self._thing = thing
        self._table = table
        self._story: deque[str] = deque([start], maxlen=STORY_MAX)

    def to(self, new: State) -> None:
        """Take a step. Raises `IllegalTransition` with the story."""
        self.state = advance(self._thing, self.state, new, self._table, tuple(self._story))
        self._story.append(new)
