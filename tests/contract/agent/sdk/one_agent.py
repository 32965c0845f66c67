"""A real agent and CLI of its own, for tests in which one goes on where another stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fakes.link_client import LinkClient, connected
from tests.fakes.local_agent import local_agent
from tests.fakes.transcript_shelf import TranscriptShelf


@asynccontextmanager
async def agent_of(model: Path, shelf: TranscriptShelf | None = None) -> AsyncIterator[LinkClient]:
    """`model`: the folder with its socket. Transcripts are put on the shelf."""
    with local_agent(model / "model.sock") as agent:
        async with connected(agent.socket, shelf=shelf) as (link, _):
            yield link
