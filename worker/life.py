"""A lifecycle that refuses transitions that its table does not have, and remembers recent ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from infra.wire.states import advance

STORY_MAX = 20
"""Transitions that a `Life` remembers, for the error that an illegal one raises."""


State = TypeVar("State", bound=StrEnum)


class Life(Generic[State]):
    """The state of one thing, changed only by its table, with its recent transitions."""

    def __init__(self, thing: str, start: State, table: Mapping[State, frozenset[State]]) -> None:
        self.state = start
        self._thing = thing
        self._table = table
        self._story: deque[str] = deque([start], maxlen=STORY_MAX)

    def to(self, new: State) -> None:
        """Make a transition. Raises `IllegalTransition` with the recent ones."""
        self.state = advance(self._thing, self.state, new, self._table, tuple(self._story))
        self._story.append(new)
