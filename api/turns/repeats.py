"""Decides whether a repeated request gets its existing turn or a new one. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from api.turns.mcp_secrets import is_mcp_secret
from api.turns.naming import is_given
from api.turns.options import OPTION_HEADERS
from infra.store.turns.turns import RepeatOf, TurnRecord
from infra.wire.errors import ErrorCode, RequestRefused, is_retryable
from infra.wire.states import TurnState

RETRY_COUNT = "x-stainless-retry-count"
"""With this header the official SDKs send the number of earlier tries."""

_QUIET_EVENTS = 2
"""A log of at most this length has only a start and an end: the agent has done nothing."""


class RepeatKind(Enum):
    """What makes a request the repeat of another one with the same body and conversation."""

    PROMISE = auto()
    """The same `Idempotency-Key`: the client wants exactly one answer."""
    MESSAGE = auto()
    """The same `X-Message-ID`. Clients send it again when they retry, and also when their user
    wants another answer."""
    RETRY = auto()
    """An SDK that says that it retries."""
    BODY = auto()
    """Only the body."""


_KEYS = (("idempotency-key", RepeatKind.PROMISE), ("x-message-id", RepeatKind.MESSAGE))


@dataclass(frozen=True)
class Repeat:
    """How a request is recognised. `body_digest` is the digest of its body and of the options that
    its headers name.

    `comes_again`: its client retries when it is cut off.
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

        Without a name, two people may send the same at the same time, each in their own
        conversation. But a turn that its client has left most likely belongs to this request.
        """
        is_vague = self.kind is RepeatKind.BODY and name is None
        return RepeatOf.LEFT if is_vague else RepeatOf.ANY

    def gets(self, turn: TurnRecord) -> bool:
        """Whether the repeat is answered by that turn. False means that it gets a new turn.

        A running turn is joined, unless it is being stopped. A finished one is returned again to
        clients that want exactly one answer, and to those that retry and have not received it. A
        turn that was cancelled, or failed before the agent did anything, may be tried again; one
        that failed half-way only by clients that did not ask for exactly one answer.
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
    """Read the request's headers. Raises `RequestRefused` for a key that is too long."""
    asked = hashlib.sha256(body)
    for name in OPTION_HEADERS:
        # With another option it is another request: a turn under way keeps the options it has.
        if is_given(value := headers.get(name, "").strip()):
            asked.update(f"\0{name}:{value}".encode())
    for name, value in sorted(headers.items()):
        if is_mcp_secret(name):
            asked.update(f"\0{name.lower()}:{value.strip()}".encode())
    body_digest = asked.digest()
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
