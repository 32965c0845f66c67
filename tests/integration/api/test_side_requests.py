"""Side requests through the API: a conversation of their own, whatever name they carry."""

from __future__ import annotations

import asyncio
import time

from api.chat.answer.vocabulary import turn_of
from infra.wire.turns import Lane
from tests.fakes.echo_worker import Gate
from tests.fakes.running_api import running_api, until

NAMED = {"x-conversation-id": "chat-1", "x-message-id": "m-1", "x-parent-message-id": "p-1"}
TITLE = "Provide a concise, 5-word-or-less title for the conversation. User: hi AI: "


async def test_a_title_does_not_wait_for_the_turn_of_the_same_name() -> None:
    script = {"hi": [Gate("turn")]}
    async with running_api(script) as api, asyncio.TaskGroup() as group:
        turn = group.create_task(api.chat("hi", headers=NAMED))
        await until(lambda: api.worker.requests)
        title = await api.chat(TITLE, headers=NAMED)
        assert title.status_code == 200
        assert not turn.done()
        api.worker.gates["turn"].set()
    said, asked = api.worker.requests
    assert (said.lane, asked.lane) == (Lane.AGENT, Lane.SIDE)
    assert said.conversation != asked.conversation


async def test_a_side_request_is_asked_for_in_its_own_words() -> None:
    settings = {"system_prompt": "You are an agent.", "side_deadline_s": 7}
    async with running_api(settings=settings) as api:
        await api.chat("Sum up", model="claude-utility", max_tokens=50, headers=NAMED)
    [asked] = api.worker.requests
    assert asked.lane is Lane.SIDE
    assert asked.model == "claude-haiku-4-5-20251001"
    assert (asked.system_prompt, asked.turn_options.max_tokens) == (None, 50)
    assert (asked.deadline_s, asked.idle_timeout_s) == (7.0, 0.0)


async def test_two_side_requests_of_one_name_share_nothing() -> None:
    async with running_api() as api:
        for task in ("title_generation", "tags_generation"):
            answer = await api.chat("hi", headers={"x-conversation-id": "c", "x-task": task})
            assert answer.status_code == 200
    first, second = api.worker.requests
    assert first.conversation != second.conversation


async def test_a_side_requests_conversation_is_soon_forgotten() -> None:
    async with running_api() as api:
        await api.chat(TITLE)
        [asked] = api.worker.requests
        record = await api.store.conversations.get(asked.conversation)
        left_ms = await api.store.redis.pttl(api.store.keys.conversation(asked.conversation))
    assert record is not None
    assert record.lane is Lane.SIDE
    assert record.label == ""
    assert 0 < left_ms <= 600_000 * 9 // 8


async def test_utility_models_are_listed() -> None:
    async with running_api() as api:
        listed = (await api.http.get("/v1/models")).json()["data"]
        one = await api.http.get("/v1/models/claude-utility")
    assert "claude-utility" in {model["id"] for model in listed}
    assert one.json()["created"] == 1_759_276_800


async def test_a_key_is_still_good_at_a_gateway_whose_clock_is_an_hour_ahead() -> None:
    """It was sealed for minutes beyond the turn, by the clock of the replica."""
    async with running_api(settings={"side_deadline_s": 7, "queue_timeout_s": 7}) as api:
        asked = (await api.chat("Sum up", model="claude-utility", headers=NAMED)).json()["id"]
        record = await api.store.turns.get(turn_of(asked))
    assert record is not None
    assert record.key_expires_ms > (time.time() + 3600 + 2 * 7) * 1000
