"""Who may hold how much of the room for bodies."""

from __future__ import annotations

from contextlib import suppress

import pytest

from api.http.held_bodies import Held, HeldBodies
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.ids import TenantId

A, B, C = TenantId("a"), TenantId("b"), TenantId("c")


def of(held: HeldBodies, tenant: TenantId) -> Held:
    request = held.request()
    request.belong(tenant)
    return request


def filled(held: HeldBodies, tenant: TenantId, *, each: int = 10) -> int:
    """How much the key gets with ever more requests."""
    took = 0
    for _ in range(1000):
        with suppress(RequestRefused):
            of(held, tenant).become(each)
            took += each
    return took


def test_a_key_gets_half_and_the_next_one_half_of_the_rest() -> None:
    held = HeldBodies(1200)
    assert [filled(held, tenant) for tenant in (A, B, C)] == [600, 300, 150]


def test_a_keys_first_request_has_all_the_room_there_is() -> None:
    held = HeldBodies(1000)
    filled(held, A)
    of(held, B).become(500)
    with pytest.raises(RequestRefused) as full:
        of(held, C).become(1)
    assert full.value.code is ErrorCode.REPLICA_FULL


def test_a_key_that_is_beyond_its_share_is_told_so() -> None:
    held = HeldBodies(1000)
    of(held, A).become(400)
    second = of(held, A)
    second.add(100)
    with pytest.raises(RequestRefused, match="of this key") as full:
        second.add(1)
    assert full.value.code is ErrorCode.TENANT_LIMIT
    second.become(50)
    second.add(50)


def test_what_is_let_go_of_can_be_held_again_and_one_alone_may_be_any_size() -> None:
    held = HeldBodies(1000)
    request = of(held, A)
    request.become(5000)
    with pytest.raises(RequestRefused):
        of(held, B).add(1)
    request.become(0)
    assert filled(held, B) == 500
