"""Titles, tags and follow-ups beside real conversations: as chat programs send them, with no agent.

The requests are the recorded ones: LibreChat's title leaves milliseconds before the first turn and
under the same ids; Open WebUI sends three tasks at once after the first turn.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import IN_CONTAINERS
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment

pytestmark = [pytest.mark.timeout(240), IN_CONTAINERS]

LIBRECHAT_TITLE = (
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. "
    "Only return the title itself.\n\nConversation:\nUser: {said}\nAI: "
)
WEBUI_TASKS = (
    "### Task:\nSuggest 3-5 relevant follow-up questions or prompts",
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.",
    "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history",
)


@dataclass(frozen=True)
class Reply:
    """One answer, and when it was there."""

    text: str
    done_at: float
    first_at: float = 0.0


class Chat:
    """A chat program's backend with one chat open."""

    def __init__(self, deployment: Deployment, http: httpx.AsyncClient) -> None:
        self._url = f"{deployment.base_url}/v1/chat/completions"
        self._http = http
        self.name = f"side-{uuid.uuid4()}"

    async def whole(self, *messages: dict[str, str], **more: Any) -> Reply:
        body = {"model": MODEL, "stream": False, "messages": messages}
        headers = self._headers() | more.pop("headers", {})
        answer = await self._http.post(self._url, json=body | more, headers=headers)
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["message"]["content"]
        return Reply(text, time.monotonic())

    async def streamed(self, *messages: dict[str, str]) -> Reply:
        body = {"model": MODEL, "stream": True, "messages": messages}
        first_at, raw = 0.0, []
        async with self._http.stream(
            "POST", self._url, json=body, headers=self._headers()
        ) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    first_at = first_at or time.monotonic()
                    raw.append(json.loads(line[6:]))
        deltas = [chunk["choices"][0]["delta"] for chunk in raw if chunk["choices"]]
        text = "".join(delta.get("content") or "" for delta in deltas)
        return Reply(text, time.monotonic(), first_at)

    def _headers(self) -> dict[str, str]:
        # LibreChat gives both requests of a new chat the same ids.
        ids = {"x-message-id": f"m-{self.name}", "x-parent-message-id": f"p-{self.name}"}
        return {"authorization": f"Bearer {GOOD_KEY}", "x-conversation-id": self.name} | ids


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def agents(deployment: Deployment) -> set[str]:
    """What is there of agents: containers, else their workspaces."""
    if deployment.data_dir is None:
        return set(deployment.containers())
    folder = deployment.data_dir / "w"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


async def asked(deployment: Deployment, http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The model calls so far."""
    log = (await http.get(f"{deployment.model_url}/_script/log")).json()
    return [entry for entry in log if entry["path"] == "/v1/messages"]


async def test_librechats_title_and_first_turn_both_come_out_right(deployment: Deployment) -> None:
    said = "stream 30 deltas every 100 ms"
    async with httpx.AsyncClient(timeout=90) as http:
        chat, before = Chat(deployment, http), agents(deployment)
        async with asyncio.TaskGroup() as group:
            title = group.create_task(chat.whole(user(LIBRECHAT_TITLE.format(said=said))))
            await asyncio.sleep(0.005)  # As recorded: the title leaves 3 to 14 ms earlier.
            turn = group.create_task(chat.streamed(user(said)))

        assert title.result().text == "ok"
        assert len(turn.result().text.split()) == 30
        assert title.result().done_at < turn.result().done_at, "the title waited for the turn"
        assert len(agents(deployment) - before) == 1, "the title had an agent"

        again = await chat.streamed(user(said), assistant(turn.result().text), user("history"))
        assert "title" not in again.text, "the title entered the agent's memory"
        assert said in again.text

        calls = await asked(deployment, http)
    titles = [call for call in calls if call["facts"]["prompt"].startswith("Provide a concise")]
    assert titles[-1]["facts"]["tools"] == 0
    assert titles[-1]["facts"]["messages"] == 1
    assert titles[-1]["headers"]["x-api-key"] == GOOD_KEY


async def test_a_title_is_answered_while_its_conversations_turn_runs(
    deployment: Deployment,
) -> None:
    said = "stream 30 deltas every 100 ms"
    async with httpx.AsyncClient(timeout=90) as http:
        chat = Chat(deployment, http)
        await chat.streamed(user("echo warm"))
        async with asyncio.TaskGroup() as group:
            turn = group.create_task(
                chat.streamed(user("echo warm"), assistant("warm"), user(said))
            )
            await asyncio.sleep(1.0)
            title = await chat.whole(user(LIBRECHAT_TITLE.format(said=said)))
            assert not turn.done()
        assert title.text == "ok"
        assert len(turn.result().text.split()) == 30


async def test_open_webuis_tasks_after_the_first_turn_leave_the_agent_alone(
    deployment: Deployment,
) -> None:
    async with httpx.AsyncClient(timeout=90) as http:
        chat, before = Chat(deployment, http), agents(deployment)
        first = await chat.streamed(user("echo hello"))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(chat.whole(user(task), max_tokens=1000)) for task in WEBUI_TASKS
            ]
        assert [task.result().text for task in tasks] == ["ok"] * 3
        assert len(agents(deployment) - before) == 1

        again = await chat.streamed(user("echo hello"), assistant(first.text), user("history"))
        assert "Task" not in again.text
        assert '"echo hello", "history"' in again.text


async def test_a_utility_model_and_a_task_header_need_no_agent(deployment: Deployment) -> None:
    async with httpx.AsyncClient(timeout=90) as http:
        chat, before = Chat(deployment, http), agents(deployment)
        by_model = await chat.whole(user("echo Weekend in Rome"), model="claude-utility")
        by_header = await chat.whole(user("toolnames"), headers={"x-task": "tags_generation"})
        listed = (await http.get(f"{deployment.base_url}/v1/models")).json()["data"]
    assert by_model.text == "Weekend in Rome"
    assert "Bash" not in by_header.text
    assert "claude-utility" in {model["id"] for model in listed}
    assert agents(deployment) <= before


async def test_a_side_requests_failure_is_honest(deployment: Deployment) -> None:
    async with httpx.AsyncClient(timeout=90) as http:
        answer = await http.post(
            f"{deployment.base_url}/v1/chat/completions",
            json={"model": "fake-error-429", "messages": [user(WEBUI_TASKS[0])]},
            headers={"authorization": f"Bearer {GOOD_KEY}"},
        )
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_side_request_takes_the_time_of_one_model_call(deployment: Deployment) -> None:
    """What we add to a call the model answers at once: the median of 15, on a busy machine."""
    prompt = user("### Task:\nname it")
    async with httpx.AsyncClient(timeout=90) as http:
        direct_s, side_s = [], []
        for _ in range(16):
            began = time.monotonic()
            answer = await http.post(
                f"{deployment.model_url}/v1/messages",
                json={"model": MODEL, "max_tokens": 10, "messages": [prompt]},
                headers={"x-api-key": GOOD_KEY},
            )
            assert answer.status_code == 200
            direct_s.append(time.monotonic() - began)
            began = time.monotonic()
            assert (await Chat(deployment, http).whole(prompt)).text == "ok"
            side_s.append(time.monotonic() - began)
    added_ms = (statistics.median(side_s[1:]) - statistics.median(direct_s[1:])) * 1000
    print(f"{deployment.kind}: a side request adds {added_ms:.1f} ms to one model call")
    assert added_ms < 250
