"""What a repeated request gets, by what became of the turn it repeats."""

from __future__ import annotations

from dataclasses import replace

import pytest

from api.repeats import Repeat, read_repeat
from infra.store.turns import TurnRecord
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.ids import ConversationKey, Fence, ReplicaId, TenantId, TurnId
from infra.wire.states import TurnState
from infra.wire.turns import Lane, OnDisconnect

EXPLICIT = Repeat("idempotency-key:i", b"body", is_explicit=True)
IMPLICIT = Repeat("x-message-id:m", b"body", is_explicit=False)
RUNNING = TurnRecord(
    turn=TurnId("chatcmpl-1"),
    conversation=ConversationKey("c"),
    tenant=TenantId("t"),
    replica=ReplicaId("r"),
    state=TurnState.RUNNING,
    model="m",
    attempt=1,
    fence=Fence(1),
    seq=7,
    created_ms=0,
    sealed_key=None,
    key_expires_ms=0,
    on_disconnect=OnDisconnect.CANCEL,
    lane=Lane.AGENT,
    cancel=None,
)
DONE = replace(RUNNING, state=TurnState.DONE)
DELIVERED = replace(DONE, is_delivered=True)
FAILED = replace(RUNNING, state=TurnState.FAILED, reason="upstream_overloaded")
REFUSED = replace(FAILED, seq=2)
WRONG_KEY = replace(REFUSED, reason="invalid_api_key")


@pytest.mark.parametrize(
    ("turn", "explicit", "implicit"),
    [
        (replace(RUNNING, state=TurnState.QUEUED), True, True),
        (RUNNING, True, True),
        (replace(RUNNING, cancel="the client hung up"), False, False),
        (DONE, True, True),
        (DELIVERED, True, False),
        (replace(RUNNING, state=TurnState.CANCELLED), False, False),
        (FAILED, True, False),
        (REFUSED, False, False),
        (WRONG_KEY, True, False),
        (replace(REFUSED, reason=None), True, False),
        (replace(RUNNING, state=TurnState.INTERRUPTED, reason="container_lost"), True, False),
    ],
)
def test_repeat_gets_the_turn_or_one_of_its_own(
    turn: TurnRecord, explicit: bool, implicit: bool
) -> None:
    assert EXPLICIT.gets(turn) is explicit
    assert IMPLICIT.gets(turn) is implicit


def test_key_of_a_client_comes_before_the_id_of_a_message() -> None:
    headers = {"idempotency-key": "i", "x-message-id": "m"}
    assert read_repeat(headers, b"body", max_chars=9) == EXPLICIT
    assert read_repeat({"x-message-id": "m"}, b"body", max_chars=9) == IMPLICIT


@pytest.mark.parametrize("value", ["", " ", "{{MESSAGE_ID}}"])
def test_empty_key_and_placeholder_are_none(value: str) -> None:
    headers = {"idempotency-key": value, "x-message-id": value}
    assert read_repeat(headers, b"body", max_chars=99) is None


def test_key_that_is_too_long_is_refused() -> None:
    with pytest.raises(RequestRefused) as refused:
        read_repeat({"x-message-id": "m" * 10}, b"body", max_chars=9)
    assert refused.value.code is ErrorCode.INVALID_REQUEST


def test_digest_is_of_key_body_and_conversation() -> None:
    digests = {
        EXPLICIT.digest(None),
        EXPLICIT.digest("c"),
        IMPLICIT.digest("c"),
        replace(EXPLICIT, body=b"other").digest("c"),
    }
    assert len(digests) == 4
    assert EXPLICIT.digest("c") == replace(EXPLICIT).digest("c")
