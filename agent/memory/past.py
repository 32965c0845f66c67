"""What a CLI begins with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Past:
    """Nothing, a session, or one up to an entry `at`, as a new session."""

    session: str | None = None
    at: str | None = None
