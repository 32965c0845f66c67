"""What a CLI starts with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Past:
    """Nothing, a session, or a new session that ends at the entry `at` of another one."""

    session: str | None = None
    at: str | None = None
