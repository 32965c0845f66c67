"""A tenant's conversations through the API: listed, shown, deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.chat.answer.vocabulary import turn_of
from infra.wire.events import TextDelta
from infra.wire.ids import ConversationKey, HostId, WorkerId
from infra.wire.states import TurnState
from tests.fakes.echo_worker import Gate, Script
from tests.fakes.running_api import RunningApi, running_api, until

OTHER = {"authorization": "Bearer sk-ant-somebody-else"}
HELD: Script = {"hold": [TextDelta(text="so far"), Gate("never")]}


async def said(api: RunningApi, name: str | None, text: str = "hi", **headers: str) -> str:
    names = {"x-conversation-id": name} if name else {}
    answer = await api.chat(text, headers=names | headers)
    return turn_of(answer.json()["id"])


async def test_conversations_are_listed_last_used_first_page_by_page() -> None:
    async with running_api() as api:
        for name in ("a", "b", "c"):
            await said(api, name)
            await asyncio.sleep(0.002)  # The order is by millisecond.
        await said(api, "theirs", **OTHER)
        first = (await api.http.get("/v1/sessions", params={"limit": 2})).json()
        last = (await api.http.get("/sessions", params={"after": first["next"]})).json()
        theirs = (await api.http.get("/v1/sessions", headers=OTHER)).json()
        absurd = await api.http.get("/v1/sessions", params={"after": "nonsense"})
        greedy = await api.http.get("/v1/sessions", params={"limit": 101})
    assert [one["label"] for one in first["data"]] == ["c", "b"]
    assert (first["object"], first["has_more"]) == ("list", True)
    assert [one["label"] for one in last["data"]] == ["a"]
    assert (last["has_more"], last["next"]) == (False, None)
    assert [one["label"] for one in theirs["data"]] == ["theirs"]
    assert [absurd.status_code, greedy.status_code] == [400, 400]


async def test_conversation_is_shown_by_its_name_or_its_key() -> None:
    async with running_api() as api:
        turns = [await said(api, "a/b c"), await said(api, "a/b c")]
        by_name = await api.http.get("/v1/sessions/a%2Fb%20c")
        shown: dict[str, Any] = by_name.json()
        by_key = await api.http.get(f"/v1/sessions/{shown['conversation']}")
        missing = await api.http.get("/v1/sessions/nobody")
    assert shown == by_key.json()
    assert shown["label"] == "a_b_c"
    assert shown["turns"] == 2
    assert shown["turn_ids"] == turns
    assert shown["turn"] is None
    assert "host" not in shown
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "conversation_not_found"


async def test_conversation_without_a_name_is_shown_by_its_key() -> None:
    async with running_api() as api:
        await said(api, None)
        (listed,) = (await api.http.get("/v1/sessions")).json()["data"]
        shown = await api.http.get(f"/v1/sessions/{listed['conversation']}")
    assert listed["label"] == ""
    assert shown.status_code == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_another_tenants_conversation_is_404(method: str) -> None:
    async with running_api() as api:
        await said(api, "mine")
        key = api.worker.requests[0].conversation
        answers = [
            await api.http.request(method, f"/v1/sessions/{name}", headers=OTHER)
            for name in ("mine", key)
        ]
        assert (await api.http.get("/v1/sessions/mine")).status_code == 200
    assert [answer.status_code for answer in answers] == [404, 404]


async def test_deleted_conversation_is_gone_with_its_turns() -> None:
    async with running_api() as api:
        turn = await said(api, "a")
        key = api.worker.requests[0].conversation
        answer = await api.http.delete("/v1/sessions/a")
        shown = await api.http.get("/v1/sessions/a")
        completion = await api.http.get(f"/v1/chat/completions/{turn}")
        listed = (await api.http.get("/v1/sessions")).json()["data"]
        left = await api.store.redis.keys(f"*{key}*")
        await said(api, "a")
        again = (await api.http.get("/v1/sessions/a")).json()
    assert answer.json() == {"object": "session.deleted", "conversation": key, "deleted": True}
    assert [shown.status_code, completion.status_code] == [404, 404]
    assert listed == []
    assert left == []
    assert again["turns"] == 1


async def test_delete_of_a_busy_conversation_cancels_first() -> None:
    async with running_api(HELD) as api, asyncio.TaskGroup() as group:
        reading = group.create_task(
            api.chat("hold", stream=True, headers={"x-conversation-id": "a"})
        )
        await until(lambda: api.worker.requests)
        waiting = group.create_task(api.chat("next", headers={"x-conversation-id": "a"}))
        await until(lambda: api.deps.drain.open_count == 2)
        async with asyncio.timeout(5):
            answer = await api.http.delete("/v1/sessions/a")
            assert (await api.worker.ended.get())[1] is TurnState.CANCELLED
            assert "turn_cancelled" in (await reading).text
            assert (await waiting).json()["error"]["code"] == "turn_cancelled"
        assert (await api.http.get("/v1/sessions/a")).status_code == 404
    assert answer.status_code == 200


async def test_delete_does_not_wait_for_ever_for_a_turn_that_does_not_end() -> None:
    async with (
        running_api(HELD, settings={"disconnect_grace_s": 0.1}, has_worker=False) as api,
        asyncio.timeout(20),
        asyncio.TaskGroup() as group,
    ):
        reading = group.create_task(api.chat("x", headers={"x-conversation-id": "a"}))
        await until(lambda: api.deps.drain.open_count)
        (listed,) = (await api.http.get("/v1/sessions")).json()["data"]
        c = ConversationKey(listed["conversation"])
        frozen = await api.store.leases.acquire(c, WorkerId("frozen-00000000"), HostId("h"))
        assert await api.store.turns.claim(frozen) is not None
        assert (await api.http.delete("/v1/sessions/a")).status_code == 200
        assert (await reading).status_code == 409
