"""A host that runs low of memory: idle agents go, the longest idle first, and nobody notices.

The host's memory is a file here, as it would be for a worker that sees another machine's figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.conftest import KINDS
from tests.e2e.deployments import MODEL, Deployment, embedded, wait_until
from tests.e2e.upstream import last_asked
from tests.parts import need

pytestmark = pytest.mark.timeout(300)

LOW_MB, PLENTY_MB = 2000, 64_000
GONE_WITHIN_S = 30.0


@dataclass
class LowHost:
    """A deployment on a host whose available memory is what the test says."""

    deployment: Deployment
    meminfo: Path

    def has(self, available_mb: int) -> None:
        """From the next look on; a file that is read while it is written would be empty."""
        new = self.meminfo.with_suffix(".new")
        new.write_text(f"MemAvailable: {available_mb * 1024} kB\n")
        new.replace(self.meminfo)

    def records(self) -> dict[str, dict[str, str]]:
        """What Redis knows of each conversation, by its name."""
        with self._redis() as client:
            keys = [key for key in client.scan_iter("agc:conv:*") if key.count(":") == 2]
            found = [client.hgetall(key) for key in keys]
        return {record["label"]: record for record in found}

    def states(self) -> dict[str, str]:
        return {name: record["state"] for name, record in self.records().items()}

    def agents(self) -> list[int]:
        """The processes that have one of its workspaces mounted."""
        assert self.deployment.data_dir is not None
        workspaces = os.fsencode(str(self.deployment.data_dir / "w"))
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if workspaces in (process / "mountinfo").read_bytes():
                    found.append(int(process.name))
        return found

    def kept_bytes(self) -> list[int]:
        """What Redis keeps of each conversation."""
        found = []
        with self._redis() as client:
            for key in list(client.scan_iter("agc:conv:*")):
                if key.count(":") == 2:
                    parts = [key, *client.scan_iter(f"{key}:*")]
                    found.append(sum(client.memory_usage(part) or 0 for part in parts))
        return found

    def _redis(self) -> redis.Redis:
        assert self.deployment.data_dir is not None
        socket = str(self.deployment.data_dir / "redis/redis.sock")
        return redis.Redis(unix_socket_path=socket, decode_responses=True)


@pytest.fixture(scope="module", params=KINDS[:2])
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LowHost]:
    kind: str = request.param
    need({"docker": "docker", "bubblewrap": "bwrap"}[kind])
    need("redis")
    meminfo = tmp_path_factory.mktemp("machine") / "meminfo"
    settings = {
        "AGCLUSTER_MEMINFO_FILE": str(meminfo),
        "AGCLUSTER_HIBERNATE_BELOW_MB": str(LOW_MB),
        "AGCLUSTER_HIBERNATE_UNTIL_MB": str(LOW_MB + 100),
        "AGCLUSTER_IDLE_TIMEOUT_S": "600",
    }
    meminfo.write_text(f"MemAvailable: {PLENTY_MB * 1024} kB\n")
    with embedded(kind, **settings) as deployment:
        yield LowHost(deployment, meminfo)


class Chat:
    """One conversation, as its client sees it."""

    def __init__(self, host: LowHost) -> None:
        self.name = f"conv-{uuid.uuid4()}"
        self._host = host
        self._seen: list[Any] = []

    def say(self, text: str) -> str:
        self._seen.append({"role": "user", "content": text})
        answer = self._host.deployment.client().chat.completions.create(
            model=MODEL, messages=self._seen, extra_headers={"X-Conversation-ID": self.name}
        )
        said: str = answer.choices[0].message.content or ""
        self._seen.append({"role": "assistant", "content": said})
        return said


def test_the_longest_idle_goes_first_and_comes_back_as_if_it_had_stayed(host: LowHost) -> None:
    first, second = Chat(host), Chat(host)
    for chat in (first, second):
        chat.say("tool bash echo kept-4711 > note.txt; echo told-by-tool")
    wait_until("both to rest", lambda: set(host.states().values()) == {"warm"}, 10)

    host.has(LOW_MB - 1)  # One agent too few.
    wait_until("the first to go", lambda: host.states()[first.name] == "cold", GONE_WITHIN_S)
    host.has(PLENTY_MB)

    record = host.records()[first.name]
    assert record["hibernated"] == "memory"
    assert int(record["hibernated_at"]) >= int(record["last_active"])
    said = first.say("history")
    assert "history" in said
    remembered = json.dumps(last_asked(host.deployment)["messages"])
    assert "tool_result" in remembered, "the transcript was lost; only the sent history came back"
    assert "kept-4711" in first.say("tool read /workspace/note.txt")
    assert "hibernated" not in host.records()[first.name]


def test_a_call_stays_open_while_its_conversation_hibernates(host: LowHost) -> None:
    """Its client may take days; nothing runs meanwhile, and the result goes on where the agent
    stopped."""
    schema: Any = {"type": "object", "properties": {"id": {"type": "string"}}}
    tools: Any = [{"type": "function", "function": {"name": "look_up", "parameters": schema}}]
    name = f"conv-{uuid.uuid4()}"
    ask: Any = {"model": MODEL, "tools": tools, "extra_headers": {"X-Conversation-ID": name}}
    prompt = 'tool bash echo before-4711 then tool look_up {"id":"17"} then echo all done'
    messages: list[Any] = [{"role": "user", "content": prompt}]
    client = host.deployment.client()
    answer = client.chat.completions.create(messages=messages, **ask).choices[0].message
    assert answer.tool_calls is not None
    (call,) = answer.tool_calls
    wait_until("it to rest", lambda: host.states()[name] == "warm", 10)

    host.has(LOW_MB - 2000)
    wait_until("it to go", lambda: host.states()[name] == "cold", GONE_WITHIN_S)
    wait_until("its processes to end", lambda: not host.agents(), GONE_WITHIN_S)
    assert host.records()[name]["hibernated"] == "memory"
    host.has(PLENTY_MB)

    messages += [answer, {"role": "tool", "tool_call_id": call.id, "content": "found-4712"}]
    (choice,) = client.chat.completions.create(messages=messages, **ask).choices
    assert (choice.finish_reason, choice.message.content) == ("stop", "all done")
    told = json.dumps(last_asked(host.deployment)["messages"])
    assert "before-4711" in told, "what was done before the call is remembered"
    assert "found-4712" in told


def test_a_hibernated_conversation_takes_less_than_a_megabyte(host: LowHost) -> None:
    """Its record and transcript in Redis and its files stay, and nothing of it runs."""
    chats = [Chat(host) for _ in range(2)]
    for chat in chats:
        chat.say("tool bash echo hi > note.txt")
    wait_until("them to rest", lambda: set(host.states().values()) <= {"warm", "cold"}, 10)
    assert len(host.agents()) >= len(chats)

    host.has(LOW_MB - 2000)
    wait_until("all to go", lambda: set(host.states().values()) == {"cold"}, GONE_WITHIN_S)
    # Spares go too.
    wait_until("their processes to end", lambda: not host.agents(), GONE_WITHIN_S)

    assert host.deployment.data_dir is not None
    assert not list((host.deployment.data_dir / "s").glob("[!.]*")), "socket folders were left"
    assert len(host.kept_bytes()) >= len(chats)
    assert max(host.kept_bytes()) < 1_000_000
    host.has(PLENTY_MB)
