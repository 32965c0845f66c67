"""One real agent and CLI for all tests of a module, without a container."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fakes.contained_agent import scripted_model
from tests.fakes.link_client import LinkClient, connected
from tests.fakes.local_agent import LocalAgent, local_agent
from tests.parts import need


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    """The folder with the scripted model's socket."""
    need("sdk")
    with scripted_model() as folder:
        yield folder


@pytest.fixture(scope="module")
def agent(model: Path) -> Iterator[LocalAgent]:
    """One for all tests: each begins a conversation of its own."""
    with local_agent(model / "model.sock") as agent:
        yield agent


@pytest.fixture
async def link(agent: LocalAgent) -> AsyncIterator[LinkClient]:
    async with connected(agent.socket) as (link, _):
        yield link
