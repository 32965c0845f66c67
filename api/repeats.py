"""Whether a repeated request gets the turn it asked for the first time, or a new one. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from api.naming import is_given
from infra.store.turns import TurnRecord
from infra.wire.errors import ErrorCode, RequestRefused, is_retryable
from infra.wire.states import TurnState

_KINDS = (("idempotency-key", True), ("x-message-id", False))
_QUIET_EVENTS = 2
"""A log no longer than this holds a start and an end: nothing has been done."""


@dataclass(frozen=True)
class Repeat:
    """What makes a repeated request the same turn.

    `is_explicit`: the client promises that the key stands for one answer (`Idempotency-Key`).
    Otherwise it is the id of a message, which clients send again when they try again and also when
    their user wants another answer.
    """

    key: str
    body: bytes
    is_explicit: bool

    def digest(self, name: str | None) -> str:
        """64 hex digits: the same for the same key and body in the same conversation."""
        parts = ((name or "").encode(), self.key.encode(), hashlib.sha256(self.body).digest())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def gets(self, turn: TurnRecord) -> bool:
        """Whether the repeat is answered by that turn. False: it is a turn of its own.

        A turn under way is joined, unless it is being stopped. A finished one is given again, but
        not to who has had it and sends only the message's id again: that is another answer asked
        for. One that was cancelled or came to nothing may be tried again; one that failed half-way
        only by who made no promise.
        """
        if not turn.state.is_terminal:
            return turn.cancel is None
        if turn.state is TurnState.CANCELLED:
            return False
        if turn.state is TurnState.DONE:
            return self.is_explicit or not turn.is_delivered
        return self.is_explicit and not _came_to_nothing(turn)


def _came_to_nothing(turn: TurnRecord) -> bool:
    codes = set(ErrorCode)
    return (
        turn.seq <= _QUIET_EVENTS and turn.reason in codes and is_retryable(ErrorCode(turn.reason))
    )


def read_repeat(headers: Mapping[str, str], body: bytes, *, max_chars: int) -> Repeat | None:
    """By the request's headers. Raises `RequestRefused` for a key that is too long."""
    for name, is_explicit in _KINDS:
        value = headers.get(name, "").strip()
        if len(value) > max_chars:
            raise RequestRefused(
                f"The header {name} is longer than {max_chars} characters.", param=name
            )
        if is_given(value):
            return Repeat(f"{name}:{value}", body, is_explicit)
    return None
