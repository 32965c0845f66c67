"""An engine that notes what reaches it, behind the engine proxy."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from infra.runtime.http_log import http_log
from infra.wire.ids import ConversationKey, Fence, HostId
from worker.engine_proxy.rules import Rules
from worker.engine_proxy.server import EngineProxy
from worker.hosts.docker.engine import SOURCES_LABEL
from worker.hosts.docker.host import DockerOptions, container_name, create_body
from worker.hosts.folders.folders import Folders
from worker.hosts.host import SOCKETS_AT, WORKSPACE_AT, ContainerSpec, Limits

CONVERSATION = ConversationKey("c" * 24)
CREATED_MS = 1_700_000_000_000


@dataclass
class NotingEngine:
    """Answers every call with 200, and keeps it."""

    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str, bytes]] = field(default_factory=list)
    start_asked: asyncio.Event = field(default_factory=asyncio.Event)
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    """Set from the beginning."""
    may_end_events: asyncio.Event = field(default_factory=asyncio.Event)
    """Likewise: a stream of events ends by itself."""
    may_ping: asyncio.Event = field(default_factory=asyncio.Event)
    """Likewise."""
    failing: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of `inspect` and `DELETE`: from which call on how many are answered with 500."""
    pings: int = 0
    streams: int = 0
    """Of events, open now."""

    def __post_init__(self) -> None:
        self.may_start.set()
        self.may_end_events.set()
        self.may_ping.set()

    def _fails(self, call: str) -> bool:
        first, many = self.failing.get(call, (1, 0))
        if first > 1:
            self.failing[call] = (first - 1, many)
            return False
        self.failing[call] = (1, many - 1)
        return many > 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((request.method, request.raw_path, await request.read()))
        parts = request.path.split("/")
        if parts[-1] == "events":
            return await self._events(request)
        if parts[-2:] == ["containers", "json"]:
            return web.json_response([{"Id": id} for id in self.containers])
        if parts[-2:-1] and parts[-1] == "json" and parts[-3] == "containers":
            if self._fails("inspect"):
                return web.json_response({"message": "trouble"}, status=500)
            found = self.containers.get(parts[-2])
            return web.json_response(found or {"message": "No such container"}, status=_has(found))
        if parts[-1] == "_ping":
            self.pings += 1
            await self.may_ping.wait()
        if parts[-1] == "start":
            self.start_asked.set()
            await self.may_start.wait()
        if request.method == "DELETE":
            if self._fails("DELETE"):
                return web.json_response({"message": "trouble"}, status=500)
            self.containers = {
                n: c for n, c in self.containers.items() if parts[-1] not in (n, c["Id"])
            }
            return web.Response(status=204)
        if parts[-1] == "version":
            return web.json_response({"ApiVersion": "1.41", "MinAPIVersion": "1.24"})
        if parts[-2:] == ["agents:1", "json"]:
            return web.json_response({"Id": "i", "Config": {"Labels": {SOURCES_LABEL: "made of"}}})
        return web.json_response({"Id": "new", "OSType": "linux", "HttpProxy": "http://u:p@x"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        told = web.StreamResponse()
        await told.prepare(request)
        for i in range(2):
            await told.write(json.dumps({"n": i}).encode() + b"\n")
        self.streams += 1
        try:
            await self.may_end_events.wait()
        finally:
            self.streams -= 1
        return told


def _has(found: object) -> int:
    return 200 if found else 404


@dataclass
class Line:
    """A worker's line to the proxy, and what came through."""

    rules: Rules
    engine: NotingEngine
    session: aiohttp.ClientSession
    socket: Path
    mounted: dict[str, Path]
    """What a container that was started has, by its place inside."""
    proxy: EngineProxy
    folder: Path

    def successor(self) -> EngineProxy:
        """The proxy that comes after this one was killed; it sees the same."""
        return EngineProxy(
            self.rules, socket=f"{self.folder}/engine", look=lambda _, at: os.stat(self.mounted[at])
        )

    @property
    def made(self) -> list[tuple[str, str, bytes]]:
        """Calls that reached the engine, without the proxy's own look-ups."""
        return [c for c in self.engine.calls if not c[1].endswith("/json") or "create" in c[1]]

    def body(self) -> dict[str, Any]:
        """What the worker sends for its container."""
        rules = self.rules
        folders = Folders(rules.data_dir).of(CONVERSATION)
        spec = ContainerSpec(CONVERSATION, Fence(3), folders, rules.limits, egress=False)
        made = create_body(rules.options, rules.host, spec, CREATED_MS, version="1.41")
        copied: dict[str, Any] = json.loads(json.dumps(made))
        return copied

    async def create(self, body: Any, *, name: str | None = None) -> tuple[int, str]:
        name = container_name(self.rules.options.cluster, CONVERSATION) if name is None else name
        path = f"/v1.41/containers/create?name={name}"
        return await self.ask("POST", path, body if isinstance(body, bytes) else json.dumps(body))

    async def ask(
        self, method: str, path: str, body: str | bytes | None = None, **options: Any
    ) -> tuple[int, str]:
        from yarl import URL

        url = URL("http://proxy" + path, encoded=True)
        async with self.session.request(method, url, data=body, **options) as answer:
            return answer.status, await answer.text()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agc-") as made:
        yield Path(made)


@pytest.fixture
async def line(folder: Path) -> AsyncIterator[Line]:
    rules = Rules(
        DockerOptions(
            "agents:1",
            "cluster-1",
            engine=f"unix://{folder}/engine",
            own_images=frozenset({"pandas:1"}),
        ),
        HostId("host-1"),
        Limits(cpus=1, memory_mb=512, pids=64, tmp_mb=16),
        folder / "d",
    )
    Folders(rules.data_dir).make(CONVERSATION, Fence(1))
    engine = NotingEngine()
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{any:.*}", engine.answer)

    def look(pid: int, place: str) -> os.stat_result:
        seen = mounted.get(place)
        if seen is None:
            raise FileNotFoundError(2, "No such file or directory", place)
        return os.stat(seen)

    made = Folders(rules.data_dir).of(CONVERSATION)
    mounted = {SOCKETS_AT: made.sockets, WORKSPACE_AT: made.workspace}
    proxy = EngineProxy(rules, socket=f"{folder}/engine", call_timeout_s=10, look=look)
    async with AsyncExitStack() as opened:
        for served, place in ((app, "engine"), (proxy.app, "proxy")):
            runner = web.AppRunner(
                served,
                access_log=None,
                logger=http_log,
                shutdown_timeout=1,
                handler_cancellation=True,
            )
            await runner.setup()
            opened.push_async_callback(runner.cleanup)
            await web.UnixSite(runner, os.fspath(folder / place)).start()
        await proxy.setup()
        opened.push_async_callback(proxy.aclose)
        connector = aiohttp.UnixConnector(path=os.fspath(folder / "proxy"), limit=0)
        session = await opened.enter_async_context(aiohttp.ClientSession(connector=connector))
        async with asyncio.TaskGroup() as group:
            verifying = group.create_task(proxy.run())
            await proxy.has_looked.wait()
            engine.calls.clear()
            yield Line(rules, engine, session, folder / "proxy", mounted, proxy, folder)
            verifying.cancel()
