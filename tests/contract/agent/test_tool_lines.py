"""What a reader sees of tools that fail, or that say more than fits, through the real CLI."""

from __future__ import annotations

import json

import pytest

from infra.wire.events import ToolCall, ToolResult
from tests.fakes.local_agent import LocalAgent, ask

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(120)]

TOOLS = ("Bash", "Read", "Write", "Task")


async def lines(local: LocalAgent, prompt: str) -> list[str]:
    events = await ask(local, prompt, tools=TOOLS)
    return [e.summary for e in events if isinstance(e, ToolCall | ToolResult)]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("tool Bash {}", ["", "The required parameter `command` is missing"]),
        (
            'tool Write {"content":"x\\n"}',
            ["1 line", "The required parameter `file_path` is missing"],
        ),
        ('tool Read {"file_path":"/nowhere"}', ["/nowhere", "File does not exist."]),
    ],
)
async def test_a_call_that_is_faulty_tells_its_fault(
    local: LocalAgent, script: str, told: list[str]
) -> None:
    assert await lines(local, f"{script} then echo done") == told


async def test_a_long_output_is_told_by_its_size(local: LocalAgent) -> None:
    _, told = await lines(local, "tool bash head -c 5000000 /dev/zero | tr '\\0' x then echo done")
    assert told == "ok, 4.8 MB of output"


async def test_a_sub_agent_that_fails_is_told_in_our_words(local: LocalAgent) -> None:
    given = {"description": "look", "prompt": "error 529 no-retry", "subagent_type": "claude"}
    told = await lines(local, f"tool Agent {json.dumps(given)} then echo done")
    assert told == ["look", "The model's service is overloaded. Try again later."]


async def test_a_tool_of_the_models_service_has_its_lines(local: LocalAgent) -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    given = [{"type": "input_json_delta", "partial_json": '{"query":"weather"}'}]
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    said = {"say": [{"raw": search, "deltas": given}, {"raw": found}, "sunny"]}
    assert await lines(local, "message " + json.dumps(said)) == ["weather", "0 results"]
