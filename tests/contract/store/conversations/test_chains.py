"""Conversations without a name are found by what was said, and never by two chats at once."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

from infra.wire.ids import ConversationKey
from tests.contract.store.scene import OTHER_C, OTHER_TENANT, TENANT, C, Scene

WEEK_S = 7 * 86400.0
FIRST, SECOND, THIRD = "1" * 32, "2" * 32, "3" * 32


async def put(scene: Scene, chain: str, c: ConversationKey = C) -> None:
    await scene.store.chains.put(TENANT, chain, c, retention_s=WEEK_S)


async def candidates(scene: Scene, chain: str) -> int:
    # redis-py types its commands for both kinds of client.
    return await cast("Awaitable[int]", scene.redis.scard(scene.keys.chain(TENANT, chain)))


async def take(scene: Scene, chain: str, *, earlier: str | None = None) -> ConversationKey | None:
    return await scene.store.chains.take(TENANT, chain, earlier=earlier, retention_s=WEEK_S)


async def test_conversation_is_found_under_its_chain(scene: Scene) -> None:
    await scene.submit()
    await put(scene, FIRST)
    assert await take(scene, FIRST) == C
    assert await take(scene, FIRST) == C  # A last turn is redone from the same place.
    assert await take(scene, SECOND) is None
    assert await scene.redis.pttl(scene.keys.chain(TENANT, FIRST)) > 6 * 86_400_000


async def test_two_that_said_the_same_are_not_taken_for_each_other(scene: Scene) -> None:
    await scene.submit()
    await scene.submit(OTHER_C)
    await put(scene, FIRST)
    await put(scene, FIRST, OTHER_C)
    assert await take(scene, FIRST) is None


async def test_another_tenant_finds_nothing(scene: Scene) -> None:
    await scene.submit()
    await put(scene, FIRST)
    found = await scene.store.chains.take(OTHER_TENANT, FIRST, earlier=None, retention_s=WEEK_S)
    assert found is None


async def test_forgotten_conversation_is_not_found(scene: Scene) -> None:
    await put(scene, FIRST)
    assert await take(scene, FIRST) is None


async def test_client_of_a_forgotten_conversation_does_not_get_anothers(scene: Scene) -> None:
    """Both send the same: who comes back to what is forgotten cannot be told from the other."""
    await put(scene, FIRST, OTHER_C)
    await scene.submit()
    await put(scene, FIRST)
    assert await take(scene, FIRST) is None
    assert await candidates(scene, FIRST) == 1


async def test_one_of_two_alike_is_not_taken_when_it_alone_is_left(scene: Scene) -> None:
    """It was: a set forgot those that were no more, and a third in place of them."""
    for c in (C, OTHER_C):
        await put(scene, FIRST, c)
    await scene.submit()
    for _ in range(2):
        await put(scene, FIRST)
        assert await take(scene, FIRST) is None


async def test_edit_never_takes_who_said_the_same_after_the_chat_moved_on(scene: Scene) -> None:
    """The chain that a chat left was empty, so anybody who came next was alone there."""
    await scene.submit()
    await scene.submit(OTHER_C)
    await put(scene, FIRST)
    await put(scene, SECOND)
    assert await take(scene, SECOND, earlier=FIRST) == C
    await put(scene, FIRST, OTHER_C)
    assert await take(scene, FIRST) is None
    assert await take(scene, SECOND, earlier=FIRST) == C
    assert await scene.redis.pttl(scene.keys.chain(TENANT, FIRST)) > 6 * 86_400_000


async def test_copy_of_an_earlier_turn_is_not_the_same_conversation(scene: Scene) -> None:
    await scene.submit()
    await put(scene, FIRST)
    await put(scene, SECOND)
    assert await take(scene, SECOND, earlier=FIRST) == C
    assert await take(scene, FIRST) is None
    assert await take(scene, SECOND, earlier=FIRST) == C


async def test_chain_that_many_share_stays_small(scene: Scene) -> None:
    for i in range(5):
        c = ConversationKey(f"{i:024x}")
        await scene.submit(c)
        await put(scene, THIRD, c)
    assert await candidates(scene, THIRD) == 1
    assert await take(scene, THIRD) is None
