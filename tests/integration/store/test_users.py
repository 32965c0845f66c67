"""API and worker as the users that are shipped: in a life of turns, nobody is refused anything."""

from __future__ import annotations

import asyncio
import json

import pytest

from api.chat.answer.vocabulary import turn_of
from tests.fakes.guarded_redis import GuardedRedis, guarded_redis
from tests.fakes.running_api import RunningApi, body
from tests.fakes.worker_stage import Stage, eventually
from tests.integration.store.cluster import Told, cluster_on, listen

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]


async def test_a_cluster_lives_with_the_rights_of_its_users() -> None:
    async with (
        guarded_redis() as server,
        cluster_on(server.as_user("worker"), api_url=server.as_user("api"), prefix="agc:life") as (
            api,
            stage,
        ),
    ):
        await _two_turns_wait_for_each_other(api)
        await _a_repeat_is_the_same_turn(api)
        await _a_turn_is_cancelled(api)
        await _sessions_are_shown_and_deleted(api, stage)
        await _redis_forgets(api, stage, server)
        assert await server.denials() == []


async def _two_turns_wait_for_each_other(api: RunningApi) -> None:
    told = [Told(count=60), Told(count=60)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for one in told:
            group.create_task(listen(api, "one", one))
    assert all(one.is_done for one in told)


async def _a_repeat_is_the_same_turn(api: RunningApi) -> None:
    headers = {"X-Conversation-ID": "two", "Idempotency-Key": "k"}
    first, again = [(await api.chat("echo once", headers=headers)).json() for _ in range(2)]
    assert first["id"] == again["id"]
    assert (await api.http.get(f"/v1/chat/completions/{first['id']}")).status_code == 200
    assert (await api.chat("echo nameless")).status_code == 200


async def _a_turn_is_cancelled(api: RunningApi) -> None:
    request = body("stream 5000 every 10 ms", stream=True)
    async with (
        asyncio.timeout(30),
        api.http.stream("POST", "/v1/chat/completions", json=request) as answer,
    ):
        lines = answer.aiter_lines()
        while not (line := await anext(lines)).startswith("data: "):
            pass
        turn = turn_of(json.loads(line[6:])["id"])
        record = await api.store.turns.get(turn)
        assert record is not None
        await api.store.turns.cancel(turn, tenant=record.tenant, reason="no more")
        assert "turn_cancelled" in "".join([line async for line in lines])


async def _sessions_are_shown_and_deleted(api: RunningApi, stage: Stage) -> None:
    listed = (await api.http.get("/v1/sessions")).json()["data"]
    assert len(listed) >= 2
    for session in listed:
        path = f"/v1/sessions/{session['conversation']}"
        assert (await api.http.get(path)).status_code == 200
        assert (await api.http.delete(path)).status_code == 200
    await eventually(lambda: not stage.machine.kept)


async def _redis_forgets(api: RunningApi, stage: Stage, server: GuardedRedis) -> None:
    assert (await api.chat("echo kept", headers={"X-Conversation-ID": "k"})).status_code == 200
    await server.forget_everything()
    async with asyncio.timeout(30):
        while await stage.store.conversations.get(stage.containers()[0]) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await api.chat("echo kept", headers={"X-Conversation-ID": "k"})).status_code == 200
