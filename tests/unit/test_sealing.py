"""A caller's key, sealed: opens for its own turn, in time, with the cluster's secret, or not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from infra.runtime.sealing import SealContext, Sealer
from infra.wire.errors import KeyNotOpened
from infra.wire.ids import ConversationKey, TenantId, TurnId

KEY = "sk-ant-api03-of-a-caller"
CONTEXT = SealContext(TenantId("t" * 20), ConversationKey("c" * 24), TurnId("turn-1"), 2_000)
SEALER = Sealer(b"s" * 32)


def test_a_sealed_key_can_be_opened_and_not_read() -> None:
    once, again = (SEALER.seal(KEY, CONTEXT) for _ in range(2))
    assert once != again
    assert KEY not in once
    assert SEALER.open(once, CONTEXT, now_ms=1_999) == KEY


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(CONTEXT, tenant=TenantId("u" * 20)),
        replace(CONTEXT, conversation=ConversationKey("d" * 24)),
        replace(CONTEXT, turn=TurnId("turn-2")),
        replace(CONTEXT, expires_ms=9_000),
    ],
)
def test_a_sealed_key_opens_for_its_own_turn_and_time_only(elsewhere: SealContext) -> None:
    with pytest.raises(KeyNotOpened) as refused:
        SEALER.open(SEALER.seal(KEY, CONTEXT), elsewhere, now_ms=1_000)
    assert KEY not in str(refused.value)


def test_a_sealed_key_expires() -> None:
    with pytest.raises(KeyNotOpened, match="expired"):
        SEALER.open(SEALER.seal(KEY, CONTEXT), CONTEXT, now_ms=2_000)


def test_another_secret_opens_no_key() -> None:
    with pytest.raises(KeyNotOpened):
        Sealer(b"o" * 32).open(SEALER.seal(KEY, CONTEXT), CONTEXT, now_ms=1_000)


@pytest.mark.parametrize("broken", ["", "v1.", "v1.AAAA", "v2.AAAA", "v1.not base64", "nonsense"])
def test_a_broken_one_opens_nothing(broken: str) -> None:
    with pytest.raises(KeyNotOpened):
        SEALER.open(broken, CONTEXT, now_ms=1_000)


def test_programs_that_know_two_secrets_in_another_order_work_together() -> None:
    """So a secret is changed while turns run: `old`, `old,new`, `new,old`, `new`."""
    old, new = b"o" * 32, b"n" * 32
    steps = [old, old + b", " + new, new + b"," + old, new]
    for before, after in pairwise(steps):
        for sealing, opening in ((before, after), (after, before)):
            sealed = Sealer(sealing).seal(KEY, CONTEXT)
            assert Sealer(opening).open(sealed, CONTEXT, now_ms=0) == KEY


def test_a_secret_with_a_comma_is_one_if_its_parts_are_too_short() -> None:
    told = b"a secret of before, that is long enough"
    sealed = Sealer(told).seal(KEY, CONTEXT)
    assert Sealer(told).open(sealed, CONTEXT, now_ms=0) == KEY
    with pytest.raises(KeyNotOpened):
        Sealer(told.split(b",")[0]).open(sealed, CONTEXT, now_ms=0)


def test_a_secret_that_was_taken_out_opens_nothing() -> None:
    sealed = Sealer(b"o" * 32).seal(KEY, CONTEXT)
    with pytest.raises(KeyNotOpened):
        Sealer(b"n" * 32).open(sealed, CONTEXT, now_ms=0)
