"""What one tenant has, another cannot see, touch or guess, at any endpoint.

The routes are taken from the OpenAPI document: a new one with an id in its path fails here until
somebody says how it is called.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from api.chat.answer.vocabulary import completion_id
from infra.wire.events import TextDelta
from infra.wire.states import TurnState
from tests.fakes.echo_worker import Gate, Pause, Script, Step
from tests.fakes.running_api import RunningApi, body, real_store, running_api, until

OWNER = {"authorization": "Bearer sk-ant-the-owner-0001"}
STRANGER = {"authorization": "Bearer sk-ant-a-stranger-01"}
NAME = "our-thread"
HELD: Script = {"hold": [TextDelta(text="secret of the owner"), Gate("rest")]}
KEYLESS = {"/models", "/models/{model_id}", "/health", "/health/live", "/health/ready"}
SIGNED = "/v1/artifacts/{token}/{name}"
"""In place of a key its path has a signature (`test_artifacts`)."""
CHAT = "/v1/chat/completions"

Call = tuple[str, str]
"""Method and path."""


async def every_call(api: RunningApi) -> list[Call]:
    """All that the API can be asked, with and without `/v1`."""
    document = (await api.http.get("/openapi.json")).json()
    calls = [
        (method.upper(), path)
        for path, found in document["paths"].items()
        if path != SIGNED
        for method in found
    ]
    return calls + [(m, p.removeprefix("/v1")) for m, p in calls if p.startswith("/v1/")]


NO_FILE, NO_UPLOAD = f"file-{'0' * 32}", f"upload_{'0' * 32}"


def url(
    path: str,
    *,
    turn: str,
    conversation: str,
    file: str = NO_FILE,
    upload: str = NO_UPLOAD,
) -> str:
    """The path with the ids filled in. Fails for a parameter nobody has thought of."""
    return path.format(
        completion_id=turn,
        name=conversation,
        model_id="claude-sonnet-4.5",
        container_id=f"cntr_{conversation}",
        file_id=file,
        upload_id=upload,
        server_name="com.example/none",
        agent_name="example/none",
        version="1.0.0",
    )


def content_of(path: str) -> dict[str, Any]:
    """A good body for the path, if it takes one."""
    if path.endswith("/chat/completions"):
        return {"json": body("hi")}
    if path.endswith("/files"):
        return {"files": {"file": ("a", b"x")}, "data": {"purpose": "user_data"}}
    if path.endswith("/parts"):
        return {"files": {"data": ("a", b"x")}}
    if path.endswith("/uploads"):
        return {"json": {"bytes": 1, "filename": "a", "mime_type": "a/b", "purpose": "user_data"}}
    return {"json": {"part_ids": []}} if path.endswith("/complete") else {}


async def own_file(api: RunningApi) -> str:
    """A file of the owner."""
    made = await api.http.post("/v1/files", headers=OWNER, **content_of("/v1/files"))
    id: str = made.json()["id"]
    return id


async def own_upload(api: RunningApi) -> str:
    """An upload of the owner, which takes parts."""
    made = await api.http.post("/v1/uploads", headers=OWNER, **content_of("/v1/uploads"))
    id: str = made.json()["id"]
    return id


async def held_turn(api: RunningApi, group: asyncio.TaskGroup) -> tuple[str, str]:
    """A turn of the owner that runs: its id and its conversation's key."""
    named = {"x-conversation-id": NAME}
    group.create_task(api.chat("hold", stream=True, headers=OWNER | named))
    await until(lambda: api.worker.requests)
    request = api.worker.requests[0]
    await until(lambda: api.deps.drain.open_count == 1)
    return completion_id(request.turn), request.conversation


def essence(answer: httpx.Response) -> tuple[Any, ...]:
    """All of an answer that its reader can tell apart."""
    volatile = ("date", "x-request-id", "x-ratelimit-")  # The last: of the reader's own requests.
    headers = sorted((k, v) for k, v in answer.headers.items() if not k.startswith(volatile))
    return answer.status_code, headers, answer.content


async def test_no_route_shows_a_stranger_what_is_the_owners() -> None:
    async with running_api(HELD) as api, asyncio.TaskGroup() as group:
        turn, conversation = await held_turn(api, group)
        file, upload = await own_file(api), await own_upload(api)
        for method, path in await every_call(api):
            if "{" not in path or path.removeprefix("/v1") in KEYLESS:
                continue
            for names in (conversation, NAME):
                there = url(path, turn=turn, conversation=names, file=file, upload=upload)
                nowhere = url(path, turn="chatcmpl-" + "0" * 32, conversation="0" * 24)
                for query in ("", "?stream=true"):
                    more = content_of(path) if method == "POST" else {}
                    told = await api.http.request(method, there + query, headers=STRANGER, **more)
                    made_up = await api.http.request(
                        method, nowhere + query, headers=STRANGER, **more
                    )
                    assert told.status_code == 404, (method, there)
                    assert essence(told) == essence(made_up), (method, there)
        record = await api.store.turns.get(api.worker.requests[0].turn)
        assert record is not None
        assert record.cancel is None, "nor stop it"
        api.worker.gates["rest"].set()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.DONE


async def test_every_route_but_the_public_ones_wants_a_key() -> None:
    async with running_api() as api, httpx.AsyncClient(base_url=api.url) as http:
        for method, path in await every_call(api):
            there = url(path, turn="chatcmpl-" + "0" * 32, conversation="x")
            answer = await http.request(method, there)
            expected = 200 if path.removeprefix("/v1") in KEYLESS else 401
            assert answer.status_code == expected, (method, path)


async def test_every_route_that_wants_a_key_is_counted() -> None:
    """Else it could be asked without end."""
    async with running_api(settings={"tenant_requests_per_min": 1}) as api:
        await api.http.get("/v1/sessions")
        for method, path in await every_call(api):
            if path.removeprefix("/v1") in KEYLESS:
                continue
            there = url(path, turn="chatcmpl-" + "0" * 32, conversation="x")
            content = content_of(path) if method == "POST" else {}
            answer = await api.http.request(method, there, **content)
            assert answer.status_code == 429, (method, path)


async def test_the_same_name_is_another_conversation_for_another_key() -> None:
    async with running_api() as api:
        named = {"x-conversation-id": NAME}
        await api.chat("mine", headers=OWNER | named)
        await api.chat("theirs", headers=STRANGER | named)
        mine, theirs = api.worker.requests
        shown = [
            (await api.http.get(f"/v1/sessions/{NAME}", headers=who)).json()
            for who in (OWNER, STRANGER)
        ]
        gone = await api.http.delete(f"/v1/sessions/{NAME}", headers=STRANGER)
        left = await api.http.get(f"/v1/sessions/{NAME}", headers=OWNER)
        listed = (await api.http.get("/v1/sessions", headers=STRANGER)).json()
    assert mine.conversation != theirs.conversation
    assert [s["turn_ids"] for s in shown] == [[mine.turn], [theirs.turn]]
    assert [gone.status_code, left.status_code] == [200, 200]
    assert listed["data"] == []


@pytest.mark.parametrize("repeat", ["idempotency-key", "x-message-id"])
async def test_the_same_repeat_key_joins_no_turn_of_another_key(repeat: str) -> None:
    again = {"x-conversation-id": NAME, repeat: "r-1"}
    async with running_api(HELD) as api, asyncio.TaskGroup() as group:
        first = group.create_task(api.chat("hold", headers=OWNER | again))
        await until(lambda: len(api.worker.requests) == 1)
        second = group.create_task(api.chat("hold", headers=STRANGER | again))
        await until(lambda: len(api.worker.requests) == 2)
        api.worker.gates["rest"].set()
    ids = [task.result().json()["id"] for task in (first, second)]
    assert ids[0] != ids[1]


async def commands_of(api: RunningApi, call: Callable[[], Awaitable[object]]) -> list[str]:
    """The names of the commands that Redis is sent meanwhile."""
    sent: list[str] = []
    execute = api.store.redis.execute_command

    async def spy(*args: Any, **options: Any) -> Any:
        sent.append(str(args[0]))
        return await execute(*args, **options)  # type: ignore[no-untyped-call]

    # fakeredis has no MONITOR, so its client is listened to.
    api.store.redis.execute_command = spy  # type: ignore[method-assign]
    try:
        await call()
    finally:
        api.store.redis.execute_command = execute  # type: ignore[method-assign]
    return sent


async def test_a_strangers_guess_costs_the_same_work_right_or_wrong() -> None:
    async with running_api() as api:
        turn = (await api.chat("hi", headers=OWNER | {"x-conversation-id": NAME})).json()["id"]
        conversation = api.worker.requests[0].conversation
        file = await own_file(api)
        for right, wrong in (
            (f"/v1/files/{file}", f"/v1/files/{NO_FILE}"),
            (f"/v1/files/{file}/content", f"/v1/files/{NO_FILE}/content"),
            (f"{CHAT}/{turn}", f"{CHAT}/chatcmpl-{'0' * 32}"),
            (f"/v1/sessions/{conversation}", f"/v1/sessions/{'0' * 24}"),
        ):
            work = [
                await commands_of(api, lambda path=path: api.http.get(path, headers=STRANGER))  # type: ignore[misc]
                for path in (right, wrong)
            ]
            assert work[0] == work[1] != []


TENANTS = 8
ROUNDS = 4
"""Streams each tenant opens, one after the other at each replica."""


def told(tenant: int, n: int) -> list[Step]:
    """What the agent of one tenant says: its own marker in every word."""
    return [
        step
        for k in range(12)
        for step in (TextDelta(text=f"<{tenant}.{n}.{k}>"), Pause(0.002 * ((tenant + k) % 3)))
    ]


@pytest.mark.redis
@pytest.mark.timeout(120)
async def test_no_answer_ever_carries_another_tenants_words() -> None:
    """Many streams at two replicas over one Redis, of which many are left in the middle."""
    chance = random.Random(20251123)
    script: Script = {
        f"prompt {t}.{n}": told(t, n) for t in range(TENANTS) for n in range(ROUNDS * 2)
    }

    async def converse(api: RunningApi, tenant: int, turns: list[tuple[int, int | None]]) -> None:
        headers = {
            "authorization": f"Bearer sk-ant-tenant-{tenant:08}",
            "x-conversation-id": "the-same-for-all",
            "x-message-id": "the-same-for-all",
        }
        for n, leaves_after in turns:
            seen = ""
            sent = body(f"prompt {tenant}.{n}", stream=True)
            async with api.http.stream("POST", CHAT, json=sent, headers=headers) as answer:
                assert answer.status_code == 200
                async for part in answer.aiter_text():
                    seen += part
                    if leaves_after is not None and seen.count("<") > leaves_after:
                        break
            assert_only(seen, f"<{tenant}.{n}.", is_whole=leaves_after is None)

    async with (
        real_store() as store,
        running_api(script, store=store) as here,
        running_api(store=here.store, has_worker=False) as there,
        asyncio.timeout(90),
        asyncio.TaskGroup() as group,
    ):
        for tenant in range(TENANTS):
            for place, api in enumerate((here, there)):
                turns = [
                    (place * ROUNDS + n, chance.choice((None, None, 0, 3, 7)))
                    for n in range(ROUNDS)
                ]
                group.create_task(converse(api, tenant, turns))


def assert_only(seen: str, marker: str, *, is_whole: bool) -> None:
    words = ["<" + word.split(">")[0] + ">" for word in seen.split("<")[1:]]
    assert all(word.startswith(marker) for word in words), words
    if is_whole:
        assert words == [f"{marker}{k}>" for k in range(12)]
        assert seen.endswith("data: [DONE]\n\n")
