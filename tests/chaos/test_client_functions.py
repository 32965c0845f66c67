"""Calls of a client's functions outlive what goes wrong, with real agents in a real cluster.

The agent works, calls, and works again. What it did before the call must be known after it, and
nothing of it is done twice, whatever was killed meanwhile.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessage

from tests.chaos.client import KEY
from tests.chaos.cluster import Agents, Cluster, Shape, cluster, until
from tests.e2e.deployments import MODEL
from tests.parts import need

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.redis,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "order_status",
            "parameters": {"type": "object", "properties": {"id": {"type": "string"}}},
        },
    }
]
WORK = (
    'tool bash echo before | tee -a marks then say Asking. + tool order_status {"id":"17"}'
    " then tool bash sleep 2; echo after | tee -a marks then assistants"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Cluster]:
    need("bwrap")
    need("redis")
    shape = Shape(agents=Agents.BUBBLEWRAP, replicas=2, workers=(2,))
    async with cluster(shape, name="calls") as made:
        yield made


class Chat:
    """A client with one function, in a conversation of its own."""

    def __init__(self, running: Cluster) -> None:
        self.running = running
        self.name = f"calls-{uuid.uuid4()}"
        self.messages: list[Any] = [{"role": "user", "content": WORK}]

    async def ask(self, *, replica: int = 0) -> ChatCompletionMessage:
        """Send what was said, and keep the answer."""
        url = f"{self.running.urls[replica]}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, timeout=120) as client:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=self.messages,
                tools=TOOLS,
                extra_headers={"X-Conversation-ID": self.name},
            )
        message = answer.choices[0].message
        self.messages.append(message)
        return message

    async def until_called(self) -> None:
        """Ask, and keep a result for the call that comes of it."""
        message = await self.ask()
        assert message.content == "Asking."
        assert message.tool_calls is not None
        (call,) = message.tool_calls
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == ("order_status", '{"id":"17"}')
        self.messages.append({"role": "tool", "tool_call_id": call.id, "content": "late"})

    async def is_whole(self, *, replica: int = 1) -> None:
        """The result goes on where the agent stopped, and each of its tools ran once."""
        said = (await self.ask(replica=replica)).content
        assert said == '[[], ["Asking."], []]', "what the model had said since the prompt"
        assert self.running.lines_of(KEY, self.name, "marks") == ["before", "after"]


@pytest.mark.parametrize("victim", ["nothing", "the worker", "the container", "Redis"])
async def test_an_open_call_outlives(running: Cluster, victim: str) -> None:
    chat = Chat(running)
    await chat.until_called()
    owner = await running.owner_of(KEY, chat.name)
    assert owner is not None
    if victim == "the worker":
        await owner.kill()
    elif victim == "the container":
        await running.host_of(owner).kill_container(running.key_of(KEY, chat.name))
    elif victim == "Redis":
        await running.redis.restart()
    await chat.is_whole()
    owner.start()
    await running.ready(owner)


async def test_a_worker_is_killed_while_the_agent_goes_on_after_a_call(running: Cluster) -> None:
    chat = Chat(running)
    await chat.until_called()
    owner = await running.owner_of(KEY, chat.name)
    assert owner is not None
    async with asyncio.TaskGroup() as group:
        going_on = group.create_task(chat.is_whole())
        # Its second tool runs.
        await until("the turn is under way", lambda: _has_turn(chat))
        await owner.kill()
        await going_on
    owner.start()
    await running.ready(owner)


async def test_another_answer_to_the_result_and_a_branch_before_the_call(running: Cluster) -> None:
    chat = Chat(running)
    await chat.until_called()
    await chat.is_whole()
    again = Chat(running)
    again.name, again.messages = chat.name, chat.messages[:3]
    assert (await again.ask()).content == '[[], ["Asking."], []]'
    branch = Chat(running)
    branch.name, branch.messages = chat.name, [*chat.messages[:2]]
    branch.messages += [{**chat.messages[2], "content": "in time"}]
    assert (await branch.ask(replica=1)).content == '[[], ["Asking."], []]'


async def _has_turn(chat: Chat) -> bool:
    record = await chat.running.conversation(KEY, chat.name)
    return record is not None and record.turn is not None
