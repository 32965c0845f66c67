"""The two agents that pass one suite: scripted, and the real SDK and CLI in a container."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fakes.contained_agent import ContainedAgent, scripted_model
from tests.fakes.local_agent import LocalAgent, local_agent
from tests.fakes.scripted_agent import ScriptedAgent
from tests.parts import need

Agent = ScriptedAgent | ContainedAgent


@pytest.fixture(scope="session")
def model() -> Iterator[Path]:
    """The folder with the scripted model's socket, one model for all agents."""
    need("docker")
    with scripted_model() as folder:
        yield folder


@pytest.fixture
async def real_agent(model: Path) -> AsyncIterator[ContainedAgent]:
    """A fresh container with the real agent."""
    async with ContainedAgent(model) as agent:
        yield agent


@pytest.fixture(scope="session")
def local() -> Iterator[LocalAgent]:
    """The real agent and CLI as processes of this machine: one for all tests that take it."""
    need("sdk")
    with scripted_model() as folder, local_agent(folder / "model.sock") as agent:
        yield agent


@pytest.fixture(params=["scripted", pytest.param("real", marks=pytest.mark.docker)])
async def agent(request: pytest.FixtureRequest) -> AsyncIterator[Agent]:
    """An agent that listens on `agent.socket`."""
    if request.param == "scripted":
        with tempfile.TemporaryDirectory(prefix="agc-", dir="/tmp") as folder:
            async with ScriptedAgent(Path(folder) / "agent.sock") as scripted:
                yield scripted
    else:
        async with ContainedAgent(request.getfixturevalue("model")) as contained:
            yield contained
