"""What an engine's answers are taken for."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web
from docker.errors import APIError

from worker.hosts.docker.engine import DockerEngine
from worker.hosts.host import ContainerId

ID = ContainerId("a" * 64)


class RemovingEngine:
    """An engine that is removing the container already: 409 so many times, then it is gone."""

    def __init__(self, conflicts: int) -> None:
        self.conflicts = conflicts
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"ApiVersion": "1.41", "MinAPIVersion": "1.24"})
        self.asked += 1
        if self.asked <= self.conflicts:
            message = f"removal of container {ID} is already in progress"
            return web.json_response({"message": message}, status=409)
        return web.json_response({"message": "No such container"}, status=404)


@pytest.fixture
async def serve(request: pytest.FixtureRequest) -> AsyncIterator[tuple[RemovingEngine, str]]:
    engine = RemovingEngine(request.param)
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", engine.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    with tempfile.TemporaryDirectory(prefix="agc-") as folder:
        await runner.setup()
        await web.UnixSite(runner, str(Path(folder) / "e")).start()
        yield engine, f"unix://{folder}/e"
        await runner.cleanup()


@pytest.mark.parametrize("serve", [2], indirect=True)
async def test_a_removal_under_way_is_waited_for(serve: tuple[RemovingEngine, str]) -> None:
    """It was taken for a container that is gone, and its folders for free."""
    engine, address = serve
    with closing(DockerEngine(address, 10)) as client:
        await asyncio.to_thread(client.remove, ID)
    assert engine.asked == 3


@pytest.mark.parametrize("serve", [10_000], indirect=True)
async def test_a_removal_that_does_not_end_is_no_success(
    serve: tuple[RemovingEngine, str],
) -> None:
    _, address = serve
    with closing(DockerEngine(address, 1)) as client, pytest.raises(APIError):
        await asyncio.to_thread(client.remove, ID)
