"""Whether a repeated request gets the turn it asked for the first time, or a new one. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from api.turns.naming import is_given
from infra.store.turns import RepeatOf, TurnRecord
from infra.wire.errors import ErrorCode, RequestRefused, is_retryable
from infra.wire.states import TurnState

RETRY_COUNT = "x-stainless-retry-count"
"""The official SDKs say with each request how many tries of it came before."""

_QUIET_EVENTS = 2
"""A log no longer than this holds a start and an end: nothing has been done."""


class RepeatKind(Enum):
    """What makes a request the repeat of another one of the same body and conversation."""

    PROMISE = auto()
    """The same `Idempotency-Key`: the client promises that it stands for one answer."""
    MESSAGE = auto()
    """The same `X-Message-ID`. Clients send it again when they try again, and also when their user
    wants another answer."""
    RETRY = auto()
    """An SDK that tries again says so."""
    BODY = auto()
    """Nothing but the body."""


_KEYS = (("idempotency-key", RepeatKind.PROMISE), ("x-message-id", RepeatKind.MESSAGE))


@dataclass(frozen=True)
class Repeat:
    """By what a request is known again. `body_digest` stands for the body.

    `comes_again`: its client is one that asks again when it is cut off.
    """

    kind: RepeatKind
    body_digest: bytes
    key: str = ""
    comes_again: bool = False

    def digest(self, name: str | None) -> str:
        """64 hex digits: the same for the same key and body in the same conversation."""
        parts = ((name or "").encode(), self.key.encode(), self.body_digest)
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def among(self, name: str | None) -> RepeatOf:
        """Which turns it may get.

        Without a name two people may say the same at once, each in a conversation of their own;
        but a turn that was left by its client is most likely this one's.
        """
        is_vague = self.kind is RepeatKind.BODY and name is None
        return RepeatOf.LEFT if is_vague else RepeatOf.ANY

    def gets(self, turn: TurnRecord) -> bool:
        """Whether the repeat is answered by that turn. False: it is a turn of its own.

        A turn under way is joined, unless it is being stopped. A finished one is given again to who
        promised so, and to who tries again and has not had it. One that was cancelled or came to
        nothing may be tried again; one that failed half-way only by who made no promise.
        """
        if not turn.state.is_terminal:
            return turn.cancel is None
        if turn.state is TurnState.CANCELLED:
            return False
        if turn.state is TurnState.DONE and self.kind in (RepeatKind.MESSAGE, RepeatKind.RETRY):
            return not turn.is_delivered
        return self.kind is RepeatKind.PROMISE and not _came_to_nothing(turn)


def _came_to_nothing(turn: TurnRecord) -> bool:
    if turn.state is TurnState.DONE:
        return False
    codes = set(ErrorCode)
    return (
        turn.seq <= _QUIET_EVENTS and turn.reason in codes and is_retryable(ErrorCode(turn.reason))
    )


def read_repeat(headers: Mapping[str, str], body: bytes | bytearray, *, max_chars: int) -> Repeat:
    """By the request's headers. Raises `RequestRefused` for a key that is too long."""
    body_digest = hashlib.sha256(body).digest()
    tries = headers.get(RETRY_COUNT, "").strip()
    for name, kind in _KEYS:
        value = headers.get(name, "").strip()
        if len(value) > max_chars:
            raise RequestRefused(
                f"The header {name} is longer than {max_chars} characters.", param=name
            )
        if is_given(value):
            return Repeat(kind, body_digest, f"{name}:{value}", comes_again=True)
    is_retry = tries.isascii() and tries.isdecimal() and int(tries[:9]) > 0
    kind = RepeatKind.RETRY if is_retry else RepeatKind.BODY
    return Repeat(kind, body_digest, comes_again=bool(tries))
