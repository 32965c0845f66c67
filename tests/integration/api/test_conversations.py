"""What of a conversation reaches the cluster, whatever its client does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from infra.wire.events import TextDelta
from infra.wire.history.decision import Accepted, Base, Continue, Fresh, Rewind, decide
from infra.wire.states import TurnState
from infra.wire.turns import Lane, TurnRequest
from tests.fakes.echo_worker import Gate, Pause, Script
from tests.fakes.running_api import MODEL, RunningApi, running_api, until
from tests.recorded import Recorded, recording

OTHER = {"authorization": "Bearer sk-ant-somebody-else"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


async def ask(
    api: RunningApi, *messages: Mapping[str, str], headers: Mapping[str, str] | None = None,
    **more: Any,
) -> httpx.Response:  # fmt: skip
    answer = await api.http.post(
        "/v1/chat/completions",
        json={"model": MODEL, "messages": list(messages), **more},
        headers=headers,
    )
    await api.deps.deferred.settled()
    return answer


async def send(api: RunningApi, request: Recorded) -> httpx.Response:
    answer = await api.http.request(
        request.method, request.path, json=request.body, headers=dict(request.headers)
    )
    await api.deps.deferred.settled()
    return answer


def bases(requests: list[TurnRequest]) -> list[Base]:
    """What a worker decides for the turns of one conversation, all of which end well."""
    accepted: list[Accepted] = []
    resends = False
    out: list[Base] = []
    for request in requests:
        base = decide(accepted, request.sent, is_thin=request.is_thin, resends=resends)
        resends |= len(request.sent) > 1
        if isinstance(base, Rewind):
            accepted = accepted[: base.keep]
        elif isinstance(base, Fresh):
            accepted = [Accepted(digest=d, turn=request.turn) for d in request.sent[:-1]]
        accepted.append(
            Accepted(
                digest=request.sent[-1],
                turn=request.turn,
                checkpoint=request.turn,
                tails=request.tails,
            )
        )
        out.append(base)
    return out


# --- Clients as recorded -------------------------------------------------------------------------


async def test_librechat_as_recorded() -> None:
    said = recording("librechat")
    async with running_api() as api:
        async with asyncio.TaskGroup() as group:
            title = group.create_task(send(api, said["title"]))
            group.create_task(send(api, said["first turn"]))
        assert title.result().status_code == 200
        for name in (
            "second turn",
            "regenerate",
            "edit of the first message",
            "turn after a stop",
            "page load",
        ):
            assert (await send(api, said[name])).status_code == 200, name
    chat = [request for request in api.worker.requests if request.lane is Lane.AGENT]
    assert len({request.conversation for request in chat}) == 1
    assert len(api.worker.requests) - len(chat) == 1
    second = chat[1].turn
    assert bases(chat) == [
        Continue(),
        Continue(),
        Rewind(keep=1, checkpoint=chat[0].turn),
        Fresh(),
        Continue(),
    ]
    assert chat[2].turn != second


async def test_open_webui_as_recorded() -> None:
    said = recording("open_webui")
    async with running_api() as api:
        await send(api, said["first turn"])
        async with asyncio.TaskGroup() as group:
            for name in ("follow-ups", "title", "tags"):
                group.create_task(send(api, said[name]))
        await send(api, said["second turn"])
        await send(api, said["edit of the first message"])
    chat = [request for request in api.worker.requests if request.lane is Lane.AGENT]
    assert len(api.worker.requests) - len(chat) == 3
    assert len({request.conversation for request in chat}) == 1
    assert bases(chat) == [Continue(), Continue(), Fresh()]


async def test_edit_right_after_the_first_turn_is_no_thin_clients_next_message() -> None:
    """Nothing but its headers tells Open WebUI's lone message from that of a thin client."""
    said = recording("open_webui")
    async with running_api() as api:
        await send(api, said["first turn"])
        await send(api, said["edit of the first message"])
    assert bases(api.worker.requests) == [Continue(), Fresh()]


async def test_thin_client_goes_on_where_it_is_unless_switched_off() -> None:
    for thin, base in ((True, Continue()), (False, Fresh())):
        async with running_api(settings={"thin_clients": thin}) as api:
            for text in ("one", "two"):
                await ask(api, user(text), headers={"x-conversation-id": "c"})
        assert bases(api.worker.requests) == [Continue(), base]


# --- Names ---------------------------------------------------------------------------------------


async def test_all_known_headers_and_the_metadata_name_a_conversation() -> None:
    async with running_api() as api:
        for header in ("X-OpenWebUI-Chat-Id", "ChatUI-Conversation-ID", "x-thread-id"):
            await ask(api, user("a"), headers={header: "c", "x-conversation-id": "{{ID}}"})
        await ask(api, user("a"), metadata={"conversation_id": "c"})
        await ask(api, user("a"), metadata={"conversation_id": "c"}, headers=OTHER)
        long = await ask(api, user("a"), metadata={"conversation_id": "c" * 300})
    *same, other = [request.conversation for request in api.worker.requests]
    assert len(set(same)) == 1
    assert other != same[0]
    assert long.status_code == 400
    assert long.json()["error"]["param"] == "metadata.conversation_id"


async def test_another_chat_under_a_temporary_name_is_another_conversation() -> None:
    """Open WebUI names temporary chats after the browser's connection: the next one in the same
    window found the files of the one before."""
    temporary = {"x-openwebui-chat-id": "local:Xk3ab"}
    async with running_api() as api:
        await ask(api, user("one"), headers=temporary)
        await ask(api, user("one"), assistant("one"), user("two"), headers=temporary)
        shown = await api.http.get("/v1/sessions/local:Xk3ab")
        await ask(api, user("one"), headers=temporary)  # Another chat, or the first answer anew.
        await ask(api, user("one"), assistant("one"), user("two"), headers=temporary)
        await ask(api, user("one"), headers={"x-openwebui-chat-id": "kept"})
        await ask(api, user("other"), headers={"x-openwebui-chat-id": "kept"})
    a, a2, b, b2, kept, kept2 = [request.conversation for request in api.worker.requests]
    assert (a, b, kept) == (a2, b2, kept2)
    assert len({a, b, kept}) == 3
    assert shown.json()["turns"] == 2


async def test_repeat_of_the_first_message_of_a_temporary_chat_joins_its_turn() -> None:
    temporary = {"x-openwebui-chat-id": "local:Xk3ab", "idempotency-key": "once"}
    async with running_api() as api:
        await ask(api, user("one"), headers=temporary)
        await ask(api, user("one"), headers=temporary)
        del temporary["idempotency-key"]
        await ask(api, user("one"), assistant("one"), user("two"), headers=temporary)
    assert len(api.worker.requests) == 2
    assert len({request.conversation for request in api.worker.requests}) == 1


async def test_which_names_are_temporary_is_a_setting() -> None:
    for patterns, conversations in (("[]", 1), ('["tmp-"]', 2)):
        async with running_api(settings={"temporary_name_patterns": patterns}) as api:
            for _ in range(2):
                await ask(api, user("one"), headers={"x-openwebui-chat-id": "tmp-1"})
        assert len({request.conversation for request in api.worker.requests}) == conversations


# --- Clients that name nothing -------------------------------------------------------------------


async def test_client_that_names_nothing_keeps_its_conversation() -> None:
    seen = [{"role": "system", "content": "be brief"}]
    async with running_api() as api:
        for text in ("one  two", "three", "four"):
            seen.append(user(text))
            answer = await ask(api, *seen)
            said = answer.json()["choices"][0]["message"]["content"]
            seen.append(assistant(f" {said}\n"))
        again = seen[:-1]
        await ask(api, *again)
        await ask(api, *again[:-1], user("four, please"))
    assert len({request.conversation for request in api.worker.requests}) == 1
    assert {request.idle_timeout_s for request in api.worker.requests} == {1800}
    assert not any(request.is_thin for request in api.worker.requests)


async def test_answer_that_was_gone_on_with_leads_to_its_conversation() -> None:
    """The button "Continue": its client shows both parts as one answer, here of a few letters."""
    async with running_api() as api:
        await ask(api, user("one"))
        page = [user("one"), assistant("one")]
        for _ in range(2):
            more = (await ask(api, *page)).json()["choices"][0]["message"]["content"]
            page[-1] = assistant(page[-1]["content"] + more)
        await ask(api, *page, user("two"))
        assert len({turn.conversation for turn in api.worker.requests}) == 1
        go_on = Continue()
        assert bases(api.worker.requests)[1:] == [go_on, go_on, go_on]


async def test_file_attached_to_a_message_does_not_hide_its_conversation() -> None:
    """The text found in it stands before the newest message only, and is not resent later."""
    found = "### Task:\nUse the context.\n<context>\n<source>x</source>\n</context>\n"
    seen: list[dict[str, str]] = []
    async with running_api() as api:
        for text in ("one\ntwo", "three", "four"):
            answer = await ask(api, *seen, user(found + text))
            said = answer.json()["choices"][0]["message"]["content"]
            seen += [user(text), assistant(said)]
    assert len({request.conversation for request in api.worker.requests}) == 1
    assert bases(api.worker.requests) == [Continue()] * 3


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_stopped_an_answer_keeps_its_conversation(stream: bool) -> None:
    script: Script = {"go": [TextDelta(text="so far"), Gate("never")]}
    async with running_api(script) as api:
        request = api.http.build_request(
            "POST",
            "/v1/chat/completions",
            json={"model": MODEL, "messages": [user("go")], "stream": stream},
        )
        if stream:
            answer = await api.http.send(request, stream=True)
            async for line in answer.aiter_lines():
                if "so far" in line:
                    break
            await answer.aclose()
        else:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(api.http.send(request))
                await until(lambda: api.worker.requests)
                await asyncio.sleep(1)  # The words, which this client never sees.
                sending.cancel()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.CANCELLED
        await api.deps.deferred.settled()
        await ask(api, user("go"), assistant("so far" if stream else ""), user("on"))
    first, second = api.worker.requests
    assert (first.conversation == second.conversation) is stream


async def test_chats_that_began_alike_keep_to_themselves() -> None:
    """Same key, same words; the answers tell them apart, or nobody gets anything."""
    begin = [user("hi"), assistant("hi"), user("more")]
    async with running_api() as api:
        await ask(api, user("hi"))
        await ask(api, user("hi"))
        await ask(api, *begin)
        await ask(api, *begin)
        await ask(api, *begin, headers=OTHER)
        await ask(api, {"role": "system", "content": "s"}, *begin)
    assert len({request.conversation for request in api.worker.requests}) == 6


async def test_answers_tell_chats_apart_that_began_alike() -> None:
    script: Script = {"hi": [TextDelta(text="first")]}
    async with running_api(script) as api:
        await ask(api, user("hi"))
        api.worker.say("hi", [TextDelta(text="second")])
        await ask(api, user("hi"))
        await ask(api, user("hi"), assistant("second"), user("more"))
        await ask(api, user("hi"), assistant("first"), user("more"))
        await ask(api, user("hi"), assistant("third"), user("more"))
    a, b, after_b, after_a, stranger = [r.conversation for r in api.worker.requests]
    assert (after_a, after_b) == (a, b)
    assert len({a, b, stranger}) == 3


async def test_twenty_chats_at_once_are_twenty_conversations() -> None:
    async with running_api() as api, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(ask(api, user("hi")))
    assert len({request.conversation for request in api.worker.requests}) == 20


# --- Repeats -------------------------------------------------------------------------------------


async def test_answer_that_was_never_delivered_is_given_to_its_repeat() -> None:
    headers = {"x-conversation-id": "c", "x-message-id": "m", "x-on-disconnect": "continue"}
    script: Script = {"go": [TextDelta(text="once"), Gate("end")]}
    async with running_api(script) as api:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(ask(api, user("go"), headers=headers))
            await until(lambda: api.worker.requests)
            first.cancel()
        await until(lambda: api.deps.drain.open_count == 0)
        api.worker.gates["end"].set()
        async with asyncio.timeout(10):
            await api.worker.ended.get()
        second = await ask(api, user("go"), headers=headers)
        assert len(api.worker.requests) == 1
        third = await ask(api, user("go"), headers=headers)
    assert second.json()["choices"][0]["message"]["content"] == "once"
    assert second.json()["id"] != third.json()["id"]
    assert len(api.worker.requests) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_answer_cut_short_by_a_shutdown_is_given_to_its_repeat(stream: bool) -> None:
    """The error in its place counted as the answer: the repeat ran the turn a second time."""
    headers = {"x-conversation-id": "c", "x-message-id": "m"}
    script: Script = {"go": [TextDelta(text="on"), Gate("end"), TextDelta(text="ce")]}
    async with (
        running_api(script) as api,
        running_api(store=api.store, has_worker=False, settings={"drain_timeout_s": 0.2}) as far,
    ):
        async with asyncio.TaskGroup() as group:
            cut = group.create_task(ask(far, user("go"), headers=headers, stream=stream))
            await until(lambda: api.worker.requests)
            far.stop.set()
        assert "shutting_down" in cut.result().text
        api.worker.gates["end"].set()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.DONE
        again = await ask(api, user("go"), headers=headers, stream=stream)
        assert len(api.worker.requests) == 1
        assert "shutting_down" not in again.text
        await ask(api, user("go"), headers=headers, stream=stream)
        assert len(api.worker.requests) == 2
    assert again.status_code == 200


async def test_repeat_joins_its_turn_on_another_replica() -> None:
    headers = {"x-conversation-id": "c", "x-message-id": "m"}
    script: Script = {"go": [TextDelta(text="on"), Gate("end"), Pause(0.3), TextDelta(text="ce")]}
    async with (
        running_api(script) as api,
        running_api(store=api.store, has_worker=False) as far,
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(ask(api, user("go"), headers=headers))
        await until(lambda: api.worker.requests)
        second = group.create_task(ask(far, user("go"), headers=headers))
        await until(lambda: far.deps.drain.open_count == 1)
        api.worker.gates["end"].set()
    assert first.result().json()["id"] == second.result().json()["id"]
    assert second.result().json()["choices"][0]["message"]["content"] == "once"
    assert len(api.worker.requests) == 1


async def test_idempotency_key_needs_no_named_conversation() -> None:
    async with running_api() as api:
        first = await ask(api, user("hi"), headers={"idempotency-key": "i"})
        second = await ask(api, user("hi"), headers={"idempotency-key": "i"})
    assert first.json()["id"] == second.json()["id"]


async def test_turn_that_was_stopped_is_run_anew_by_its_repeat() -> None:
    headers = {"x-conversation-id": "c", "idempotency-key": "i"}
    async with (
        running_api({"go": [Gate("never")]}, settings={"retry_grace_s": 0}) as api,
        asyncio.TaskGroup() as group,
    ):
        stopped = group.create_task(ask(api, user("go"), headers=headers))
        await until(lambda: api.worker.requests)
        stopped.cancel()
        async with asyncio.timeout(10):
            assert (await api.worker.ended.get())[1] is TurnState.CANCELLED
        api.worker.say("go", [TextDelta(text="now")])
        again = await ask(api, user("go"), headers=headers)
    assert again.json()["choices"][0]["message"]["content"] == "now"


# --- One turn at a time --------------------------------------------------------------------------


async def test_waiting_turn_is_pinged_in_its_open_stream_from_the_beginning() -> None:
    settings = {"ping_interval_s": 0.05, "commit_after_s": 0}
    name = {"x-conversation-id": "c"}
    async with (
        running_api({"go": [Gate("end")]}, settings=settings) as api,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(ask(api, user("go"), headers=name))
        await until(lambda: api.worker.requests)
        waits = api.http.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": MODEL, "messages": [user("next")], "stream": True},
            headers=name,
        )
        async with waits as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == ": ping"
            pings = 0
            async for line in lines:
                pings += line == ": ping"
                if pings == 3:
                    break
            api.worker.gates["end"].set()
            rest = [line async for line in lines]
    assert rest[-2] == "data: [DONE]"
    assert sum('"content":"next"' in line for line in rest) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_twenty_turns_at_once_run_in_order_or_are_refused_cleanly(stream: bool) -> None:
    name = {"x-conversation-id": "c"}
    async with running_api() as api, asyncio.TaskGroup() as group:
        asked = [
            group.create_task(ask(api, user(f"turn {n}"), headers=name, stream=stream))
            for n in range(20)
        ]
    refused = [task.result() for task in asked if task.result().status_code == 429]
    assert len(api.worker.requests) == 20 - len(refused)
    assert len({request.conversation for request in api.worker.requests}) == 1
    assert all(answer.headers["retry-after"] for answer in refused)
    assert {task.result().status_code for task in asked} <= {200, 429}
