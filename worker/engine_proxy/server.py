"""Serves the engine calls that a worker needs, and no others, on a Unix socket.

Each call to the engine is built anew from what `rules` accepted: method, path, query and body are
the proxy's own, and no header or byte of the request is passed on, so nothing can be smuggled. An
answer is passed back unchanged and limited in size, except for the stream of events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import aiohttp
from aiohttp import web

from infra.metrics.engine_proxy import ENGINE_CALLS
from infra.runtime.logs import RatedLog, fields
from infra.runtime.threads import in_thread
from worker.engine_proxy.line import EngineLine
from worker.engine_proxy.mounts import EngineCallRefused, Look, look_inside
from worker.engine_proxy.rules import (
    Json,
    OwnContainer,
    Rules,
    Target,
    target_of,
    told_of_engine,
)
from worker.engine_proxy.starts import ComparedStarts
from worker.hosts.docker.engine import UNLINKED, UNLINKED_BYTES
from worker.hosts.unlinked import unlinked_bytes

log = logging.getLogger(__name__)

BODY_MAX_BYTES = 64 * 1024
CALLS_MAX = 64
"""Concurrent calls; further ones wait. Starts and their comparison are not counted."""
LOOKS_MAX = 2
"""Concurrent searches for open files. Each takes a thread, for two seconds at most."""
STREAMS_MAX = 16
"""Concurrent streams of events; a worker uses one."""
_SHOWN_CHARS = 200
REFUSALS_LOGGED_MAX = 120
"""Log lines per minute about refused calls."""


@dataclass(frozen=True)
class _Call:
    """A request, as far as it was read."""

    request: web.Request
    version: str
    query: str
    name: str
    body: bytes


_Handler = Callable[[_Call], Awaitable[web.StreamResponse]]


class EngineProxy:
    """Used between `setup` and `aclose`. Meanwhile, `run` must run and a server must serve
    `app`."""

    def __init__(
        self,
        rules: Rules,
        *,
        socket: str,
        call_timeout_s: float = 60.0,
        look: Look = look_inside,
    ) -> None:
        """`look` shows what a process has mounted."""
        self._rules = rules
        self._log = RatedLog(log, lines_max=REFUSALS_LOGGED_MAX)
        # Whatever a worker keeps open on one of them does not block the others.
        self._line = EngineLine(socket, connections=CALLS_MAX, call_timeout_s=call_timeout_s)
        self._events_line = EngineLine(
            socket, connections=STREAMS_MAX, call_timeout_s=call_timeout_s
        )
        self._streams = 0
        self._starts = ComparedStarts(
            rules, socket=socket, call_timeout_s=call_timeout_s, look=look
        )
        self._calls: tuple[tuple[str, re.Pattern[str], _Handler], ...] = (
            ("GET", re.compile("/info"), self._info),
            ("GET", re.compile("/events"), self._events),
            ("GET", re.compile("/containers/json"), self._list),
            ("POST", re.compile("/containers/create"), self._create),
            ("GET", re.compile("/containers/([^/:]+)/json"), self._inspect),
            ("GET", re.compile(f"/containers/([^/:]+){UNLINKED}"), self._unlinked),
            ("POST", re.compile("/containers/([^/:]+)/start"), self._start),
            ("POST", re.compile("/containers/([^/:]+)/update"), self._update),
            ("POST", re.compile("/containers/([^/:]+)/stop"), self._stop),
            ("DELETE", re.compile("/containers/([^/:]+)"), self._remove),
            ("GET", re.compile("/images/(.+)/json"), self._image),
        )
        self._plain = (
            self._info,
            self._inspect,
            self._unlinked,
            self._start,
            self._update,
            self._image,
        )
        self._looks = asyncio.Semaphore(LOOKS_MAX)
        self.app = web.Application(client_max_size=BODY_MAX_BYTES)
        self.app.router.add_route("*", "/{any:.*}", self._answer)

    @property
    def has_looked(self) -> asyncio.Event:
        """Whether all containers that ran at startup were compared."""
        return self._starts.has_looked

    async def setup(self) -> None:
        """Prepare to call the engine."""
        for part in (self._line, self._events_line, self._starts):
            await part.setup()

    async def run(self) -> None:
        """Make sure that no container stays unverified, until cancelled."""
        await self._starts.run()

    async def aclose(self) -> None:
        """Let go of the engine."""
        for part in (self._starts, self._events_line, self._line):
            await part.aclose()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request. The only place that turns a refusal into a status."""
        try:
            answer = await self._let_through(request)
        except (EngineCallRefused, web.HTTPRequestEntityTooLarge) as error:
            ENGINE_CALLS.labels("refused").inc()
            what = f"{request.method} {request.raw_path}"[:_SHOWN_CHARS]
            self._log.warning("engine call refused", call=what, reason=error)
            return _told(403, f"refused by the engine proxy: {error}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            ENGINE_CALLS.labels("unanswered").inc()
            log.warning("the engine does not answer", extra=fields(error=error))
            return _told(502, f"the engine does not answer: {error}")
        ENGINE_CALLS.labels("passed").inc()
        return answer

    async def _let_through(self, request: web.Request) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        target = target_of(path)
        body = await request.read()
        if target.version is None:
            return await self._unversioned(request, target, body, query)
        for method, pattern, handler in self._calls:
            found = pattern.fullmatch(target.path)
            if found is None or method != request.method:
                continue
            if body and handler not in (self._create, self._update):
                raise EngineCallRefused("a body where none belongs")
            if query and handler in self._plain:
                raise EngineCallRefused("a query where none belongs")
            name = found[1] if pattern.groups else ""
            return await handler(_Call(request, target.version, query, name, body))
        raise EngineCallRefused("a worker has no need of this call")

    async def _unversioned(
        self, request: web.Request, target: Target, body: bytes, query: str
    ) -> web.StreamResponse:
        if request.method != "GET" or target.path not in ("/version", "/_ping") or body or query:
            raise EngineCallRefused("a worker has no need of this call")
        return await self._pass(target.path)

    async def _info(self, call: _Call) -> web.StreamResponse:
        status, answer = await self._line.ask("GET", _path(call, "/info"))
        shown = told_of_engine(json.loads(answer)) if status == 200 else json.loads(answer)
        return web.json_response(shown, status=status)

    async def _list(self, call: _Call) -> web.StreamResponse:
        query = self._rules.list_query(call.query)
        return await self._pass(_path(call, "/containers/json"), query=query)

    async def _create(self, call: _Call) -> web.StreamResponse:
        name = self._rules.name_of(call.query)
        body = self._rules.create(name, call.body, version=call.version)
        return await self._pass(
            _path(call, "/containers/create"), "POST", query={"name": name}, body=body
        )

    async def _inspect(self, call: _Call) -> web.StreamResponse:
        found = await self._own(call)
        return found if isinstance(found, web.Response) else web.json_response(found[1])

    async def _unlinked(self, call: _Call) -> web.StreamResponse:
        """What the engine does not know, and a worker in a container cannot see."""
        found = await self._own(call)
        if isinstance(found, web.Response):
            return found
        pid = int((found[1].get("State") or {}).get("Pid") or 0)
        workspace = self._rules.workspace(found[0])
        async with self._looks:
            # Not left to itself by a worker that hangs up: its place is free when it has ended.
            seen = await in_thread(partial(unlinked_bytes, pid, workspace)) if pid else 0
        return web.json_response({UNLINKED_BYTES: seen})

    async def _start(self, call: _Call) -> web.StreamResponse:
        found = await self._own(call)
        if isinstance(found, web.Response):
            return found
        return _passed(await self._starts.start(call.version, found[0], str(found[1]["Id"])))

    async def _update(self, call: _Call) -> web.StreamResponse:
        body = self._rules.update(call.body)
        found = await self._own(call)
        if isinstance(found, web.Response):
            return found
        return await self._pass(
            _path(call, f"/containers/{found[1]['Id']}/update"), "POST", body=body
        )

    async def _stop(self, call: _Call) -> web.StreamResponse:
        query = self._rules.stop_query(call.query)
        found = await self._own(call)
        if isinstance(found, web.Response):
            return found
        path = _path(call, f"/containers/{found[1]['Id']}/stop")
        return await self._pass(path, "POST", query=query, more_s=float(query["t"]))

    async def _remove(self, call: _Call) -> web.StreamResponse:
        query = self._rules.remove_query(call.query)
        found = await self._own(call)
        if isinstance(found, web.Response):
            return found
        return await self._pass(_path(call, f"/containers/{found[1]['Id']}"), "DELETE", query=query)

    async def _image(self, call: _Call) -> web.StreamResponse:
        if call.name != self._rules.options.image:
            raise EngineCallRefused("not the agents' image")
        return await self._pass(_path(call, f"/images/{call.name}/json"))

    async def _events(self, call: _Call) -> web.StreamResponse:
        query = self._rules.event_query(call.query)
        if self._streams >= STREAMS_MAX:
            raise EngineCallRefused("too many streams of events")
        self._streams += 1
        try:
            return await self._streamed(call, query)
        finally:
            self._streams -= 1

    async def _streamed(self, call: _Call, query: dict[str, str]) -> web.StreamResponse:
        async with self._events_line.stream(_path(call, "/events"), query) as answer:
            told = web.StreamResponse(status=answer.status, headers=_type_of(answer))
            await told.prepare(call.request)
            async for part in answer.content.iter_any():
                await told.write(part)
        return told

    async def _own(self, call: _Call) -> web.Response | tuple[OwnContainer, Json]:
        """Which container it is and its description, or an answer that there is none."""
        status, answer = await self._line.ask("GET", _path(call, f"/containers/{call.name}/json"))
        if status != 200:
            return _passed((status, answer))
        found = json.loads(answer)
        return self._rules.own_container(found), found

    async def _pass(
        self,
        path: str,
        method: str = "GET",
        *,
        query: dict[str, str] | None = None,
        body: Json = None,
        more_s: float = 0.0,
    ) -> web.Response:
        return _passed(await self._line.ask(method, path, query=query, body=body, more_s=more_s))


def _path(call: _Call, below: str) -> str:
    return f"/v{call.version}{below}"


def _passed(answer: tuple[int, bytes]) -> web.Response:
    return web.Response(body=answer[1], status=answer[0], content_type="application/json")


def _type_of(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {"Content-Type": answer.headers.get("Content-Type", "application/json")}


def _told(status: int, message: str) -> web.Response:
    """In the engine's own error format, which its clients show."""
    return web.json_response({"message": message}, status=status)
