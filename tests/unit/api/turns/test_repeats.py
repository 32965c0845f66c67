"""What a repeated request gets, by what became of the turn it repeats."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from api.turns.options import EGRESS_PROFILE_HEADER
from api.turns.repeats import Repeat, RepeatKind, read_repeat
from infra.store.turns.turns import RepeatOf, TurnRecord
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.ids import ConversationKey, Fence, ReplicaId, TenantId, TurnId
from infra.wire.states import TurnState
from infra.wire.turns import Lane, OnDisconnect

BODY = hashlib.sha256(b"body").digest()
EXPLICIT = Repeat(RepeatKind.PROMISE, BODY, "idempotency-key:i", comes_again=True)
MESSAGE = Repeat(RepeatKind.MESSAGE, BODY, "x-message-id:m", comes_again=True)
RETRY = Repeat(RepeatKind.RETRY, BODY, comes_again=True)
SAME_BODY = Repeat(RepeatKind.BODY, BODY)
RUNNING = TurnRecord(
    turn=TurnId("turn_1"),
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
    ("turn", "explicit", "again", "same_body"),
    [
        (replace(RUNNING, state=TurnState.QUEUED), True, True, True),
        (RUNNING, True, True, True),
        (replace(RUNNING, cancel="the client hung up"), False, False, False),
        (DONE, True, True, False),
        (DELIVERED, True, False, False),
        (replace(RUNNING, state=TurnState.CANCELLED), False, False, False),
        (FAILED, True, False, False),
        (REFUSED, False, False, False),
        (WRONG_KEY, True, False, False),
        (replace(REFUSED, reason=None), True, False, False),
        (
            replace(RUNNING, state=TurnState.INTERRUPTED, reason="container_lost"),
            True,
            False,
            False,
        ),
    ],
)
def test_repeat_gets_the_turn_or_one_of_its_own(
    turn: TurnRecord, explicit: bool, again: bool, same_body: bool
) -> None:
    assert EXPLICIT.gets(turn) is explicit
    assert MESSAGE.gets(turn) is again
    assert RETRY.gets(turn) is again
    assert SAME_BODY.gets(turn) is same_body


def test_key_of_a_client_comes_before_the_id_of_a_message() -> None:
    headers = {"idempotency-key": "i", "x-message-id": "m", "x-stainless-retry-count": "2"}
    assert read_repeat(headers, b"body", max_chars=9) == EXPLICIT
    assert read_repeat({"x-message-id": "m"}, b"body", max_chars=9) == MESSAGE


@pytest.mark.parametrize("value", ["", " ", "{{MESSAGE_ID}}"])
def test_empty_key_and_placeholder_are_none(value: str) -> None:
    headers = {"idempotency-key": value, "x-message-id": value}
    assert read_repeat(headers, b"body", max_chars=99) == SAME_BODY


@pytest.mark.parametrize(
    ("tries", "kind"),
    [
        ("0", RepeatKind.BODY),
        ("1", RepeatKind.RETRY),
        (" 2 ", RepeatKind.RETRY),
        ("-1", RepeatKind.BODY),
        ("x", RepeatKind.BODY),
        ("²", RepeatKind.BODY),
        ("9" * 5000, RepeatKind.RETRY),
    ],
)
def test_sdk_that_tries_again_is_known_by_its_count(tries: str, kind: RepeatKind) -> None:
    """All SDKs count from nought, so even the first try says that others may come."""
    found = read_repeat({"x-stainless-retry-count": tries}, b"body", max_chars=99)
    assert (found.kind, found.comes_again) == (kind, True)
    assert found.digest("c") == SAME_BODY.digest("c")


def test_without_a_name_the_same_body_alone_is_no_repeat_of_what_somebody_reads() -> None:
    assert SAME_BODY.among(None) is RepeatOf.LEFT
    assert SAME_BODY.among("c") is RepeatOf.ANY
    assert RETRY.among(None) is RepeatOf.ANY
    assert MESSAGE.among(None) is RepeatOf.ANY


def test_key_that_is_too_long_is_refused() -> None:
    with pytest.raises(RequestRefused) as refused:
        read_repeat({"x-message-id": "m" * 10}, b"body", max_chars=9)
    assert refused.value.code is ErrorCode.INVALID_REQUEST


def test_digest_is_of_key_body_and_conversation() -> None:
    digests = {
        EXPLICIT.digest(None),
        EXPLICIT.digest("c"),
        MESSAGE.digest("c"),
        replace(EXPLICIT, body_digest=b"other").digest("c"),
    }
    assert len(digests) == 4
    assert EXPLICIT.digest("c") == replace(EXPLICIT).digest("c")


def test_a_request_with_another_option_is_no_repeat() -> None:
    """The turn under way would go on with the option it has, and lose the one asked for."""
    plain, *named = (
        read_repeat(headers, b"body", max_chars=99).digest("chat")
        for headers in ({}, {EGRESS_PROFILE_HEADER: "pip"}, {EGRESS_PROFILE_HEADER: "open"})
    )
    assert len({plain, *named}) == 3
