"""A CLI that is opened on an earlier session asks the model with the same beginning.

The model's service keeps what it has read of a prompt for a while, and reads it again at a tenth of
the price, up to the first character that differs.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import connected, start_turn
from tests.fakes.local_agent import local_agent
from tests.parts import need

pytestmark = pytest.mark.sdk

ALWAYS_NEW = {"max_tokens", "metadata", "messages"}


async def test_a_reopened_session_sends_the_same_beginning() -> None:
    need("sdk")
    calls: list[dict[str, Any]] = []
    with scripted_model() as folder, local_agent(folder / "model.sock") as agent:
        transport = httpx.AsyncHTTPTransport(uds=str(folder / "model.sock"))
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://model") as client,
            connected(agent.socket) as (link, _),
        ):
            for n in range(3):
                # Another number of turns is another CLI.
                await link.run(start_turn(f"r{n}", f"echo {n}", tools=("Bash",), max_turns=20 + n))
                calls.append((await client.get("/_script/last")).json())
    first, *later = [{k: v for k, v in call.items() if k not in ALWAYS_NEW} for call in calls]
    assert later == [first, first]
    assert "persistent" not in str(first["system"])
    assert [len(call["messages"]) for call in calls] == [1, 3, 5]
