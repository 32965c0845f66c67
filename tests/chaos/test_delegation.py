"""Agents that call agents, with real agents in a real cluster, while things go wrong.

Two hosts, each with room for two agents. What is asked for is done once, and all who asked
read of it, or of what went wrong.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from infra.store.conversations.conversations import ConversationRecord
from infra.wire.ids import ConversationKey
from infra.wire.states import TurnState
from tests.chaos.client import KEY
from tests.chaos.cluster import Agents, Cluster, Shape, cluster, until
from tests.chaos.processes import Process
from tests.parts import need

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.redis,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

AGENTS: Mapping[str, str] = {
    "lead": "delegates: [helper, spender]\n",
    "helper": "description: Helps.\ndelegates: [helper]\ntools: [Bash]\n",
    "spender": "turn_budget_tokens: 1\n",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    need("bwrap")
    need("redis")
    agents = tmp_path_factory.mktemp("agents")
    for name, text in AGENTS.items():
        (agents / f"{name}.yaml").write_text(text)
    settings = {
        "agents_dir": agents,
        "slots": 1,
        "delegation_wait_s": 10.0,
        "file_store": f"file://{tmp_path_factory.mktemp('files')}",
        # A conversation that is over gives its place away.
        "idle_timeout_s": 5.0,
    }
    shape = Shape(agents=Agents.BUBBLEWRAP, replicas=2, workers=(2, 2), settings=settings)
    async with cluster(shape, name="delegate") as made:
        yield made


def call(task: str, agent: str = "helper") -> str:
    return "tool delegate " + json.dumps({"agent": agent, "task": task})


class Chat:
    """A client in a conversation of its own, who talks to `lead`."""

    def __init__(self, running: Cluster) -> None:
        self.running = running
        self.name = f"delegate-{uuid.uuid4()}"
        self.shown = ""

    async def ask(self, prompt: str, *, replica: int = 0) -> str:
        url = f"{self.running.urls[replica]}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, timeout=120) as client:
            answer = await client.chat.completions.create(
                model="lead",
                messages=[{"role": "user", "content": prompt}],
                extra_headers={"X-Conversation-ID": self.name},
            )
        message = answer.choices[0].message
        self.shown = str((message.model_extra or {}).get("reasoning_content"))
        return message.content or ""

    async def refused(self, prompt: str) -> openai.APIStatusError:
        """The error that it comes to."""
        with pytest.raises(openai.APIStatusError) as refused:
            await self.ask(prompt)
        return refused.value

    @property
    def key(self) -> ConversationKey:
        return self.running.key_of(KEY, self.name)

    async def called(self) -> ConversationRecord | None:
        """The record of the agent that was called, if it works on a turn."""
        store = self.running.store
        async for record in store.conversations.scan():
            if record.caller == self.key and record.turn is not None:
                return record
        return None

    async def until_called(self) -> ConversationRecord:
        """Until the called agent has begun to do something."""
        found: list[ConversationRecord] = []

        async def works() -> bool:
            found[:] = [record] if (record := await self.called()) else []
            return bool(found and found[0].turn) and await self._is_logged(found[0])

        await until("the called agent works", works)
        return found[0]

    async def _is_logged(self, record: ConversationRecord) -> bool:
        assert record.turn is not None
        page = await self.running.store.log.read(record.turn, after=0)
        return any(b'"tool_call"' in payload for _, payload in page.events)

    def lines(self, c: ConversationKey) -> list[str]:
        """What the called agent has written into its workspace."""
        files = [host.workspace(c) / "marks" for host in self.running.hosts]
        return [line for one in files if one.is_file() for line in _lines(one)]


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


SLOW = "tool bash echo begun | tee -a marks; sleep 3; echo done | tee -a marks"
SLOWER = SLOW.replace("sleep 3", "sleep 10")
LONG = SLOW.replace("sleep 3", "sleep 60")


async def revived(running: Cluster, *workers: Process) -> None:
    for worker in workers:
        worker.start()
        await running.ready(worker)


async def test_an_agent_calls_another_on_another_host(running: Cluster) -> None:
    chat = Chat(running)
    said = await chat.ask(call("tool bash echo hello-$((40 + 2))"))
    assert "hello-42" in said
    assert re.search(r"\[Conversation [0-9a-f]{24} of helper\]", said)
    assert "delegate: helper: tool bash echo" in chat.shown
    assert "  Bash: echo hello-" in chat.shown, "what it does is shown below the call"


async def test_files_of_a_called_agent_are_handed_over(running: Cluster) -> None:
    chat = Chat(running)
    makes = call("tool bash mkdir -p outputs && echo a,b > outputs/table.csv")
    said = await chat.ask(f"{makes} then tool bash cat /workspace/from-helper/table.csv")
    assert "a,b" in said
    kept = await running.store.made.of(chat.key)
    assert [one.path for one in kept] == ["from-helper/table.csv"], "they are the answer's as well"


@pytest.mark.parametrize("victim", ["the caller's worker", "the called agent's worker", "both"])
async def test_a_call_outlives_a_killed_worker(running: Cluster, victim: str) -> None:
    chat = Chat(running)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(chat.ask(call(SLOW)))
        called = await chat.until_called()
        caller = await running.owner_of(KEY, chat.name)
        helper = await running.process_of(str(called.owner))
        assert caller is not None
        assert helper is not None
        victims = {
            "the caller's worker": [caller],
            "the called agent's worker": [helper],
            "both": [caller, helper],
        }[victim]
        for one in victims:
            await one.kill()
        # Both may have been of one host, whose turns would end without a worker.
        await revived(running, *victims)
    assert "done" in asked.result()
    assert chat.lines(called.conversation) == ["begun", "done"], "it was done once"


@pytest.mark.parametrize("leaving", ["the caller's worker", "both"])
async def test_a_call_outlives_a_drain(running: Cluster, leaving: str) -> None:
    """It takes longer than a worker waits for its turns, so it is handed over in the middle."""
    chat = Chat(running)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(chat.ask(call(SLOWER)))
        called = await chat.until_called()
        caller = await running.owner_of(KEY, chat.name)
        helper = await running.process_of(str(called.owner))
        assert caller is not None
        assert helper is not None
        workers = [caller, helper] if leaving == "both" else [caller]
        for one in workers:
            one.terminate()
        for one in workers:
            assert await one.wait(within_s=30) == 0
        assert not asked.done(), "it was handed over in the middle"
        await revived(running, *workers)
    assert "done" in asked.result()
    assert chat.lines(called.conversation) == ["begun", "done"], "it was done once"


async def test_a_called_agents_lost_container_is_told_to_its_caller(running: Cluster) -> None:
    chat = Chat(running)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(chat.ask(call(SLOW)))
        called = await chat.until_called()
        helper = await running.process_of(str(called.owner))
        assert helper is not None
        await running.host_of(helper).kill_container(called.conversation)
    assert "The agent did not finish" in asked.result()


async def test_a_lost_caller_stops_those_that_it_called(running: Cluster) -> None:
    chat = Chat(running)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(chat.refused(call(LONG)))
        called = await chat.until_called()
        caller = await running.owner_of(KEY, chat.name)
        assert caller is not None
        await running.host_of(caller).kill_container(chat.key)
    assert asked.result().code in ("container_lost", "out_of_memory")
    assert called.turn is not None
    turns = running.store.turns

    async def is_over() -> bool:
        record = await turns.get(called.turn) if called.turn else None
        return record is not None and record.state is TurnState.CANCELLED

    await until("the called turn is cancelled", is_over)
    assert "done" not in chat.lines(called.conversation)


async def test_a_client_that_hangs_up_stops_all(running: Cluster) -> None:
    chat = Chat(running)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(chat.ask(call(LONG)))
        called = await chat.until_called()
        asked.cancel()
    await until("nobody works any longer", partial(_is_idle, chat))
    assert "done" not in chat.lines(called.conversation)


async def _is_idle(chat: Chat) -> bool:
    record = await chat.running.conversation(KEY, chat.name)
    return record is not None and record.turn is None and await chat.called() is None


async def test_what_cannot_be_done_is_told(running: Cluster) -> None:
    chat = Chat(running)
    busy = call("tool bash sleep 14").removeprefix("tool ")
    deeper = call(call("echo deep")).removeprefix("tool ")
    # The caller and those that it calls take all the room that there is.
    await chat.ask(f"tools {busy} ;; {busy} ;; {deeper}")
    assert "No worker has room for another agent" in chat.shown
    said = await chat.ask(call("tool bash echo one", "spender"))
    assert "The agent did not finish: " in said
    assert "used all the tokens" in said


async def test_a_deleted_conversation_takes_the_called_ones_along(running: Cluster) -> None:
    chat = Chat(running)
    said = await chat.ask(call("tool bash echo x > kept; echo hello"))
    [child] = re.findall(r"\[Conversation ([0-9a-f]{24})", said)
    await running.store.conversations.delete(chat.key, tenant=None, reason="x", is_forced=True)
    files = [host.workspace(ConversationKey(child)) for host in running.hosts]
    await until("its files are gone", partial(_are_gone, files))
    # A host takes what it wipes for its own for as long as that takes.
    await until("its record is gone", partial(_is_forgotten, running, ConversationKey(child)))


async def _is_forgotten(running: Cluster, c: ConversationKey) -> bool:
    return await running.store.conversations.get(c) is None


async def _are_gone(files: list[Path]) -> bool:
    return not any(one.exists() for one in files)
