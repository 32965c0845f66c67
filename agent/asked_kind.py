"""What one turn asks its user is of one kind, so that their "1" or "yes" means one thing. Pure.

Otherwise a model could ask "Shall I leave it? 1. Yes" beside a call that has to be approved.
"""

from __future__ import annotations

from enum import Enum, auto


class Asking(Enum):
    """What a user may be asked."""

    QUESTION = auto()
    PLAN = auto()
    CALLS = auto()


OTHERWISE_ASKED = (
    "Your user is asked something else at the moment, and their answer must mean one thing. Do "
    "this when they have answered."
)


class AskedKind:
    """The kind of what a turn has asked so far."""

    def __init__(self) -> None:
        self._kind: Asking | None = None

    def takes(self, kind: Asking) -> bool:
        """Whether that may be asked, too. The first one decides for the turn."""
        self._kind = self._kind or kind
        return self._kind is kind
