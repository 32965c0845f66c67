"""The scripted model on a loopback port, inside the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn

from infra.scripted_model.__main__ import keep_breaks_out_of_the_log
from infra.scripted_model.journal import Journal
from infra.scripted_model.server import Options, make_app

_START_S = 20.0


@dataclass(frozen=True)
class RunningModel:
    """Where it listens and what it was asked."""

    url: str
    journal: Journal


@asynccontextmanager
async def running_model(options: Options | None = None) -> AsyncIterator[RunningModel]:
    """Serve until the block ends; streams that are still open are broken then."""
    keep_breaks_out_of_the_log()
    journal = Journal()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            make_app(journal, options),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]))
            async with asyncio.timeout(_START_S):
                await server.is_up.wait()
            try:
                yield RunningModel(f"http://127.0.0.1:{listener.getsockname()[1]}", journal)
            finally:
                server.should_exit = True


class _Server(uvicorn.Server):
    """Leaves the signals to pytest and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()
