"""Agents over A2A, by the official client of its SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from a2a.client import A2ACardResolver, Client
from a2a.client.client import ClientCallContext
from a2a.client.errors import A2AClientError
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Part,
    Role,
    SendMessageConfiguration,
    SubscribeToTaskRequest,
    TaskState,
)
from a2a.utils.errors import (
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from google.protobuf.json_format import MessageToDict

from infra.wire.errors import ErrorCode
from infra.wire.events import (
    EndReason,
    Notice,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    TurnEnded,
)
from infra.wire.options import ConversationOptions
from infra.wire.states import TurnState
from infra.wire.turns import DocumentBlock, FileBlock, ImageBlock, TextBlock
from tests.fakes.a2a_client import (
    HTTP_JSON,
    JSONRPC,
    a2a_client,
    ask,
    folded,
    message,
    said_by,
    text_of,
)
from tests.fakes.echo_worker import DONE, Gate, Script, Step, failure, words
from tests.fakes.running_api import KEY, RunningApi, real_store, running_api

OTHER_KEY = "sk-ant-test-another-tenant-01"
ASKING = TurnEnded(state=TurnState.DONE, asks=True)
AGENT = "description: Reads patches.\nmodel: claude-haiku-4-5-20251001\negress_profile: pip\n"

both = pytest.mark.parametrize("binding", [JSONRPC, HTTP_JSON])


@pytest.fixture
def settings(tmp_path: Path) -> Mapping[str, Any]:
    (tmp_path / "reviewer.yaml").write_text(AGENT)
    (tmp_path / "writer.yaml").write_text("description: Writes.\n")
    (tmp_path / "private.yaml").write_text(f"tenants: [{'0' * 20}]\n")
    return {"agents_dir": tmp_path, "a2a": True, "egress_profiles": {"pip": {"policy": "none"}}}


def client_of(
    api: RunningApi, agent: str = "reviewer", *, key: str = KEY, **more: Any
) -> AbstractAsyncContextManager[Client]:
    return a2a_client(api.url, agent, key=key, **more)


async def test_a_card_says_how_an_agent_is_called(settings: Mapping[str, Any]) -> None:
    async with running_api(settings=settings) as api, httpx.AsyncClient() as http:
        card = await A2ACardResolver(http, f"{api.url}/a2a/reviewer").get_agent_card()
        assert (card.name, card.description) == ("reviewer", "Reads patches.")
        url = f"{api.url}/a2a/reviewer"
        assert [(one.url, one.protocol_binding, one.protocol_version)
                for one in card.supported_interfaces] == [
            (url, JSONRPC, "1.0"), (url, HTTP_JSON, "1.0"),
        ]  # fmt: skip
        assert card.capabilities.streaming
        assert not card.capabilities.push_notifications
        scheme = card.security_schemes["key"].http_auth_security_scheme
        assert scheme.scheme == "bearer"
        assert [skill.id for skill in card.skills] == ["reviewer"]
        for hidden in ("private", "nobody"):
            answer = await http.get(f"{api.url}/a2a/{hidden}/.well-known/agent-card.json")
            assert answer.status_code == 404
            assert answer.json()["error"]["details"][0]["reason"] == "MODEL_NOT_FOUND"


async def test_a_card_names_the_address_that_its_operator_gave(
    settings: Mapping[str, Any],
) -> None:
    public = {"public_url": "https://agents.example.org/x"}
    async with running_api(settings={**settings, **public}) as api:
        answer = await api.http.get("/a2a/writer/.well-known/agent-card.json")
        [url, _] = [one["url"] for one in answer.json()["supportedInterfaces"]]
        assert url == "https://agents.example.org/x/a2a/writer"


async def test_nothing_is_served_unless_it_is_switched_on(settings: Mapping[str, Any]) -> None:
    async with running_api(settings={**settings, "a2a": False}) as api:
        answer = await api.http.get("/a2a/writer/.well-known/agent-card.json")
        assert answer.status_code == 404


@both
async def test_a_message_becomes_a_turn_of_the_agent(
    settings: Mapping[str, Any], binding: str
) -> None:
    async with running_api(settings=settings) as api:
        async with client_of(api, binding=binding, streaming=False) as client:
            [answer] = await ask(client, message("hello there"))
        task = answer.task
        assert task.status.state == TaskState.TASK_STATE_COMPLETED
        assert text_of(task) == "hello there"
        [request] = api.worker.requests
        assert request.agent is not None
        assert request.agent.name == "reviewer"
        assert request.model == "claude-haiku-4-5-20251001"
        assert request.options == ConversationOptions(egress_profile="pip")
        assert task.id == "task-" + request.turn.removeprefix("turn_")
        assert MessageToDict(task.metadata)["usage"]["outputTokens"] == 5


@both
async def test_a_stream_tells_what_happens(settings: Mapping[str, Any], binding: str) -> None:
    steps: list[Step] = [
        ThinkingDelta(text="hm"),
        TextDelta(text="I look. "),
        ToolCall(id="1", name="Bash", summary="ls"),
        ToolResult(id="1", name="Bash", summary="3 lines"),
        Notice(text="Retrying."),
        *words("It is \ud83d"),
        TextDelta(text="\ude00 good"),
        DONE,
    ]
    async with (
        running_api({"go": steps}, settings=settings) as api,
        client_of(api, binding=binding) as client,
    ):
        updates = await ask(client, message("go", context_id="c-1"))
    assert updates[0].task.status.state == TaskState.TASK_STATE_SUBMITTED
    assert {update.task.context_id for update in updates[:1]} == {"c-1"}
    task = folded(updates)
    assert task.status.state == TaskState.TASK_STATE_COMPLETED
    assert text_of(task) == "I look. It is 😀 good"
    told = [
        (update.status_update.metadata["kind"], said_by(update.status_update.status))
        for update in updates
        if "kind" in update.status_update.metadata
    ]
    assert told == [
        ("tool_call", "Bash: ls"),
        ("tool_result", "Bash → 3 lines"),
        ("notice", "Retrying."),
    ]
    assert "hm" not in str(updates)


async def test_an_agent_whose_tools_are_not_shown_tells_none(
    settings: Mapping[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "quiet.yaml").write_text("tool_display: off\n")
    steps: list[Step] = [ToolCall(id="1", name="Bash", summary="ls"), TextDelta(text="x"), DONE]
    async with (
        running_api({"go": steps}, settings=settings) as api,
        client_of(api, "quiet") as quiet,
        client_of(api, "writer") as writer,
    ):
        assert "Bash" not in str(await ask(quiet, message("go")))
        assert "Bash" in str(await ask(writer, message("go")))


@both
async def test_a_question_is_answered_by_the_next_message(
    settings: Mapping[str, Any], binding: str
) -> None:
    script: Script = {
        "go": [TextDelta(text="Which?\n\n1. this\n2. that"), ASKING],
        "the first": [TextDelta(text="And when?"), ASKING],
    }
    async with (
        running_api(script, settings=settings) as api,
        client_of(api, binding=binding) as client,
    ):
        task = folded(await ask(client, message("go")))
        assert task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert said_by(task.status) == "Which?\n\n1. this\n2. that"
        waiting = [update async for update in client.subscribe(SubscribeToTaskRequest(id=task.id))]
        assert folded(waiting).status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        with pytest.raises(TaskNotCancelableError, match="waits for its user"):
            await client.cancel_task(CancelTaskRequest(id=task.id))

        answer = message("the first", task_id=task.id, context_id=task.context_id)
        second = folded(await ask(client, answer))
        assert second.id == task.id
        assert second.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        assert said_by(second.status) == "And when?"

        last = message("now", task_id=task.id)
        for _ in range(2):  # Once more, as after an answer that was lost.
            done = folded(await ask(client, last))
            assert done.id == task.id
            assert done.status.state == TaskState.TASK_STATE_COMPLETED
            assert [part.text for part in done.artifacts[-1].parts if part.text] == ["now"]
        assert len(api.worker.requests) == 3
        assert len({request.conversation for request in api.worker.requests}) == 1
        assert all(request.is_thin for request in api.worker.requests)

        got = await client.get_task(GetTaskRequest(id=task.id))
        assert got.status.state == TaskState.TASK_STATE_COMPLETED
        assert [one.parts[0].text for one in got.artifacts] == [
            "Which?\n\n1. this\n2. that", "And when?", "now",
        ]  # fmt: skip
        listed = await client.list_tasks(ListTasksRequest(context_id=task.context_id))
        assert [one.id for one in listed.tasks] == [task.id]
        with pytest.raises(UnsupportedOperationError, match="has ended"):
            await ask(client, message("more", task_id=task.id))
        with pytest.raises(UnsupportedOperationError, match="has ended"):
            _ = [update async for update in client.subscribe(SubscribeToTaskRequest(id=task.id))]


async def test_a_message_that_comes_again_is_answered_by_the_same_turn(
    settings: Mapping[str, Any],
) -> None:
    async with running_api(settings=settings) as api, client_of(api) as client:
        sent = message("hello")
        first, second = [folded(await ask(client, sent)) for _ in range(2)]
        assert (first.id, first.context_id, text_of(first)) == (
            second.id, second.context_id, text_of(second),
        )  # fmt: skip
        assert len(api.worker.requests) == 1
        other = message("other", message_id=sent.message.message_id)
        assert folded(await ask(client, other)).context_id != first.context_id
        assert len(api.worker.requests) == 2


async def test_a_client_may_leave_and_look_later(settings: Mapping[str, Any]) -> None:
    script: Script = {"go": [TextDelta(text="begun, "), Gate("on"), TextDelta(text="done"), DONE]}
    async with running_api(script, settings=settings) as api:
        async with client_of(api, polling=True, streaming=False) as client:
            [answer] = await ask(client, message("go"))
            id = answer.task.id
            assert answer.task.status.state in (
                TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING,
            )  # fmt: skip
        async with client_of(api, binding=HTTP_JSON) as client:
            updates = client.subscribe(SubscribeToTaskRequest(id=id))
            seen = [await anext(updates)]
            while "begun" not in text_of(folded(seen)):
                seen.append(await anext(updates))
            api.worker.gates["on"].set()
            seen += [update async for update in updates]
            task = folded(seen)
            assert task.status.state == TaskState.TASK_STATE_COMPLETED
            assert text_of(task) == "begun, done"
            assert text_of(await client.get_task(GetTaskRequest(id=id))) == "begun, done"


@both
async def test_a_task_is_canceled(settings: Mapping[str, Any], binding: str) -> None:
    script: Script = {"go": [TextDelta(text="begun"), Gate("never"), DONE]}
    async with (
        running_api(script, settings=settings) as api,
        client_of(api, binding=binding) as client,
    ):
        updates = client.send_message(message("go"))
        seen = [await anext(updates)]
        while "begun" not in text_of(folded(seen)):
            seen.append(await anext(updates))
        with pytest.raises(UnsupportedOperationError, match="at work"):
            await ask(client, message("more", task_id=seen[0].task.id))
        canceled = await client.cancel_task(CancelTaskRequest(id=seen[0].task.id))
        assert canceled.status.state == TaskState.TASK_STATE_CANCELED
        seen += [update async for update in updates]
        assert folded(seen).status.state == TaskState.TASK_STATE_CANCELED
        with pytest.raises(TaskNotCancelableError):
            await client.cancel_task(CancelTaskRequest(id=seen[0].task.id))


@pytest.mark.parametrize(
    ("end", "state", "told"),
    [
        (
            failure(ErrorCode.UPSTREAM_ERROR, "The model failed."),
            TaskState.TASK_STATE_FAILED,
            "The model failed.",
        ),
        (
            TurnEnded(state=TurnState.DONE, end_reason=EndReason.REFUSED),
            TaskState.TASK_STATE_REJECTED,
            "",
        ),
        (
            TurnEnded(state=TurnState.DONE, end_reason=EndReason.LENGTH),
            TaskState.TASK_STATE_COMPLETED,
            "",
        ),
        (
            TurnEnded(state=TurnState.DONE, end_reason=EndReason.CALLS),
            TaskState.TASK_STATE_INPUT_REQUIRED,
            "so far",
        ),
    ],
)
async def test_every_end_is_a_state(
    settings: Mapping[str, Any], end: TurnEnded, state: TaskState, told: str
) -> None:
    script: Script = {"go": [TextDelta(text="so far"), end]}
    async with running_api(script, settings=settings) as api, client_of(api) as client:
        task = folded(await ask(client, message("go")))
        assert (task.status.state, said_by(task.status)) == (state, told)
        got = await client.get_task(GetTaskRequest(id=task.id))
        assert (got.status.state, said_by(got.status)) == (state, told)


async def test_files_come_with_a_message(settings: Mapping[str, Any]) -> None:
    async with running_api(settings=settings) as api, client_of(api) as client:
        kept = await api.http.post(
            "/v1/files", files={"file": ("big.csv", b"a,b\n")}, data={"purpose": "user_data"}
        )
        id = kept.json()["id"]
        data = Part()
        data.data.struct_value.update({"n": 3, "of": ["x"]})
        await ask(
            client,
            message(
                "look",
                data,
                Part(raw=b"\x89PNG\r\n\x1a\n", media_type="image/png", filename="a.png"),
                Part(raw=b"%PDF-1.7", media_type="application/pdf"),
                Part(raw=b"1,2", media_type="text/csv", filename="t.csv"),
                Part(url=f"{api.url}/v1/files/{id}/content"),
            ),
        )
        text, told, picture, document, table, big = api.worker.requests[-1].prompt
        assert text == TextBlock(text="look")
        assert isinstance(told, TextBlock)
        assert '"n": 3' in told.text
        assert isinstance(picture, ImageBlock)
        assert isinstance(document, DocumentBlock)
        assert isinstance(table, FileBlock)
        assert (table.filename, table.bytes) == ("t.csv", 3)
        assert isinstance(big, FileBlock)
        assert (big.file, big.filename) == (id, "big.csv")
        large = Part()
        large.data.struct_value.update({"order": 2**53 + 1})
        for part, field in (
            (large, "send it as a string"),
            (Part(url="https://example.org/a.pdf"), "not fetched"),
            (Part(url=f"file-{'0' * 32}"), "no file with this id"),
            (Part(), "has one of"),
            (Part(raw=b"", filename="x"), "empty"),
        ):
            with pytest.raises(InvalidParamsError, match=field):
                await ask(client, message("look", part))


async def test_tenants_see_nothing_of_each_other(settings: Mapping[str, Any]) -> None:
    async with (
        running_api(settings=settings) as api,
        client_of(api) as mine,
        client_of(api, key=OTHER_KEY) as theirs,
        client_of(api, "writer") as another_agent,
    ):
        task = folded(await ask(mine, message("hello", context_id="shared")))
        for client in (theirs, another_agent):
            with pytest.raises(TaskNotFoundError):
                await client.get_task(GetTaskRequest(id=task.id))
            with pytest.raises(TaskNotFoundError):
                await client.cancel_task(CancelTaskRequest(id=task.id))
            with pytest.raises(TaskNotFoundError):
                _ = [one async for one in client.subscribe(SubscribeToTaskRequest(id=task.id))]
            with pytest.raises(TaskNotFoundError):
                await ask(client, message("hello", task_id=task.id))
            listed = await client.list_tasks(ListTasksRequest(context_id="shared"))
            assert not listed.tasks
        other = folded(await ask(theirs, message("hello", context_id="shared")))
        assert other.id != task.id
        assert len({request.conversation for request in api.worker.requests}) == 2


async def test_tasks_are_listed_by_context(settings: Mapping[str, Any]) -> None:
    async with running_api(settings=settings) as api, client_of(api, binding=HTTP_JSON) as client:
        tasks = [
            folded(await ask(client, message(text, context_id="c"))).id for text in ("a", "b", "c")
        ]
        page = await client.list_tasks(ListTasksRequest(context_id="c", page_size=2))
        assert [one.id for one in page.tasks] == tasks[:0:-1]
        assert (page.total_size, page.page_size) == (3, 2)
        rest = await client.list_tasks(
            ListTasksRequest(
                context_id="c", page_token=page.next_page_token, page_size=2, include_artifacts=True
            )
        )
        assert [(one.id, text_of(one)) for one in rest.tasks] == [(tasks[0], "a")]
        assert not rest.next_page_token
        failed = await client.list_tasks(
            ListTasksRequest(context_id="c", status=TaskState.TASK_STATE_FAILED)
        )
        assert failed.total_size == 0
        with pytest.raises(InvalidParamsError, match="contextId"):
            await client.list_tasks(ListTasksRequest())


async def test_what_is_refused_says_what_to_change(settings: Mapping[str, Any]) -> None:
    async with running_api(settings=settings) as api, client_of(api) as client:
        for sent, kind, told in (
            (message(""), InvalidParamsError, "The message is empty"),
            (message("x", context_id="a b"), InvalidParamsError, "contextId"),
            (message("x", context_id=KEY), InvalidParamsError, "holds an API key"),
            (message("x", message_id=""), InvalidParamsError, "messageId"),
            (message("x", message_id="m" * 257), InvalidParamsError, "messageId"),
            (message("x", role=Role.ROLE_AGENT), InvalidParamsError, "ROLE_USER"),
            (message("x", task_id="task-1"), TaskNotFoundError, "no task"),
            (
                message(
                    "x",
                    configuration=SendMessageConfiguration(
                        task_push_notification_config={"url": "https://example.org"}
                    ),
                ),
                PushNotificationNotSupportedError,
                "not supported",
            ),
        ):
            with pytest.raises(kind, match=told):
                await ask(client, sent)
        assert not api.worker.requests


def _rpc(**more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": "GetTask", "params": {}, **more}


V1 = {"a2a-version": "1.0"}


@pytest.mark.parametrize(
    ("sent", "headers", "number"),
    [
        (b"{", V1, -32700),
        (b"[]", V1, -32600),
        (_rpc(jsonrpc="1.0"), V1, -32600),
        (_rpc(params=[]), V1, -32602),
        (_rpc(params=[1]), V1, -32602),
        (_rpc(params={"id": 5}), V1, -32602),
        (_rpc(method="DeleteEverything"), V1, -32601),
        (_rpc(method="tasks/get"), V1, -32601),
        (_rpc(method="GetExtendedAgentCard"), V1, -32007),
        (_rpc(method="ListTaskPushNotificationConfigs"), V1, -32003),
        (_rpc(), {}, -32009),
        (_rpc(), {"a2a-version": "0.3"}, -32009),
        (_rpc(params={"deep": [[[[0]]]] * 20_001}), V1, -32602),
    ],
)
async def test_odd_calls_get_their_error(
    settings: Mapping[str, Any], sent: Any, headers: Mapping[str, str], number: int
) -> None:
    async with running_api(settings=settings) as api:
        how: dict[str, Any] = {"content": sent} if isinstance(sent, bytes) else {"json": sent}
        answer = await api.http.post("/a2a/writer", headers=headers, **how)
        assert answer.status_code == 200, answer.text
        assert answer.json()["error"]["code"] == number, answer.text
        assert answer.json()["id"] == (
            7 if len(answer.request.content) < 1000 and isinstance(sent, dict) else None
        )


async def test_limits_and_keys_have_the_status_that_they_have_everywhere(
    settings: Mapping[str, Any],
) -> None:
    limits = {"tenant_requests_per_min": 1}
    async with running_api(settings={**settings, **limits}) as api:
        none = await api.http.post("/a2a/writer", json=_rpc(), headers={"authorization": "", **V1})
        assert (none.status_code, none.headers["www-authenticate"]) == (401, "Bearer")
        assert none.json()["error"]["data"][0]["reason"] == "MISSING_API_KEY"
        await api.http.get("/a2a/writer/tasks", headers=V1)
        often = await api.http.get("/a2a/writer/tasks", headers=V1)
        assert often.status_code == 429
        assert "retry-after" in often.headers
        assert often.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
    async with running_api(settings=settings) as api:
        gone = await api.http.post("/a2a/private", json=_rpc(), headers=V1)
        assert gone.status_code == 404


async def test_another_replica_goes_on_with_a_task(settings: Mapping[str, Any]) -> None:
    """Sent to one, which ends in the middle of its stream; the other one has all of it."""
    script: Script = {"go": [TextDelta(text="begun, "), Gate("on"), TextDelta(text="done"), DONE]}
    async with (
        real_store() as store,
        running_api(script, settings=settings, store=store) as first,
        running_api(settings=settings, store=store, has_worker=False) as second,
        client_of(first) as here,
        client_of(second) as there,
    ):
        sent = message("go")
        updates = here.send_message(sent)
        seen = [await anext(updates)]
        while "begun" not in text_of(folded(seen)):
            seen.append(await anext(updates))
        id = seen[0].task.id
        assert text_of(await there.get_task(GetTaskRequest(id=id))) == "begun, "
        follows = there.subscribe(SubscribeToTaskRequest(id=id))
        resumed = [await anext(follows)]
        assert text_of(folded(resumed)) == "begun, "

        again = there.send_message(sent)
        repeated = [await anext(again)]
        assert repeated[0].task.id == id

        first.deps.drain.close()
        first.deps.drain.cut()
        with pytest.raises(A2AClientError, match="-32000"):
            _ = [update async for update in updates]
        first.worker.gates["on"].set()
        resumed += [update async for update in follows]
        repeated += [update async for update in again]
        for told in (resumed, repeated):
            task = folded(told)
            assert task.status.state == TaskState.TASK_STATE_COMPLETED
            assert text_of(task) == "begun, done"
        assert len(first.worker.requests) == 1


async def test_another_replica_cancels(settings: Mapping[str, Any]) -> None:
    script: Script = {"go": [TextDelta(text="begun"), Gate("never"), DONE]}
    async with (
        real_store() as store,
        running_api(script, settings=settings, store=store) as first,
        running_api(settings=settings, store=store, has_worker=False) as second,
        client_of(first) as here,
        client_of(second) as there,
    ):
        updates = here.send_message(message("go"))
        seen = [await anext(updates)]
        canceled = await there.cancel_task(CancelTaskRequest(id=seen[0].task.id))
        assert canceled.status.state == TaskState.TASK_STATE_CANCELED
        seen += [update async for update in updates]
        assert folded(seen).status.state == TaskState.TASK_STATE_CANCELED


async def test_a_client_that_hangs_up_leaves_its_task_running(
    settings: Mapping[str, Any],
) -> None:
    script: Script = {"go": [TextDelta(text="begun"), Gate("on"), DONE]}
    async with running_api(script, settings=settings) as api:
        async with (
            api.http.stream(
                "POST",
                "/a2a/reviewer/message:stream",
                json=MessageToDict(message("go")),
                headers=V1,
            ) as answer,
            aclosing(cast("AsyncGenerator[str]", answer.aiter_lines())) as lines,
        ):
            told = json.loads((await anext(lines)).removeprefix("data: "))
            id = told["task"]["id"]
        async with client_of(api) as client:
            api.worker.gates["on"].set()
            async with asyncio.timeout(20):
                turn, state = await api.worker.ended.get()
            assert (turn.removeprefix("turn_"), state) == (id.removeprefix("task-"), TurnState.DONE)
            got = await client.get_task(
                GetTaskRequest(id=id), context=ClientCallContext(timeout=20)
            )
            assert got.status.state == TaskState.TASK_STATE_COMPLETED
