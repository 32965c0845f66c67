"""Serves a worker's calls of the engine on a Unix socket: those it needs, and no other.

Each call is made anew towards the engine from what `rules` let through: method, path, query and
body are the proxy's own, no header and no byte is passed on. So there is nothing to smuggle. An
answer goes back as it is, bounded unless it is the stream of events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from infra.runtime.logs import RatedLog, fields
from worker.engine_proxy.mounts import (
    SHARING_RUNTIMES,
    EngineCallRefused,
    Look,
    first_wrong_mount,
    look_inside,
)
from worker.engine_proxy.rules import (
    Json,
    Rules,
    Target,
    target_of,
    told_of_engine,
)

log = logging.getLogger(__name__)

BODY_MAX_BYTES = 64 * 1024
ANSWER_MAX_BYTES = 16 * 1024 * 1024
_BASE = "http://engine"
_CLOSE_S = 2.0
_SHOWN_CHARS = 200
_LOOKS, _LOOK_PAUSE_S = 20, 0.05
REFUSALS_LOGGED_MAX = 120
"""Lines a minute about calls that were refused."""


@dataclass(frozen=True)
class _Call:
    """A request as far as it was read."""

    request: web.Request
    version: str
    query: str
    name: str
    body: bytes


_Handler = Callable[[_Call], Awaitable[web.StreamResponse]]


class EngineProxy:
    """`setup` to `aclose`; `app` is to be served by somebody."""

    def __init__(
        self,
        rules: Rules,
        *,
        socket: str,
        call_timeout_s: float = 60.0,
        look: Look = look_inside,
    ) -> None:
        """`look` sees what a process has mounted."""
        self._rules = rules
        self._look = look
        self._socket = socket
        self._call_timeout_s = call_timeout_s
        self._log = RatedLog(log, lines_max=REFUSALS_LOGGED_MAX)
        self._session: aiohttp.ClientSession | None = None
        self._calls: tuple[tuple[str, re.Pattern[str], _Handler], ...] = (
            ("GET", re.compile("/info"), self._info),
            ("GET", re.compile("/events"), self._events),
            ("GET", re.compile("/containers/json"), self._list),
            ("POST", re.compile("/containers/create"), self._create),
            ("GET", re.compile("/containers/([^/:]+)/json"), self._inspect),
            ("POST", re.compile("/containers/([^/:]+)/start"), self._start),
            ("POST", re.compile("/containers/([^/:]+)/stop"), self._stop),
            ("DELETE", re.compile("/containers/([^/:]+)"), self._remove),
            ("GET", re.compile("/images/(.+)/json"), self._image),
        )
        self.app = web.Application(client_max_size=BODY_MAX_BYTES)
        self.app.router.add_route("*", "/{any:.*}", self._answer)

    async def setup(self) -> None:
        """Get ready to call the engine."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=self._socket, limit=64),
            headers={"Accept-Encoding": "identity"},
        )

    async def aclose(self) -> None:
        """Let go of the engine."""
        if self._session is not None:
            await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        """One request; the only place that turns a refusal into a status."""
        try:
            return await self._let_through(request)
        except (EngineCallRefused, web.HTTPRequestEntityTooLarge) as error:
            what = f"{request.method} {request.raw_path}"[:_SHOWN_CHARS]
            self._log.warning("engine call refused", call=what, reason=error)
            return _told(403, f"refused by the engine proxy: {error}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("the engine does not answer", extra=fields(error=error))
            return _told(502, f"the engine does not answer: {error}")

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
            if body and handler != self._create:
                raise EngineCallRefused("a body where none belongs")
            if query and handler in (self._info, self._inspect, self._start, self._image):
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
        status, answer = await self._ask("GET", _path(call, "/info"))
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

    async def _start(self, call: _Call) -> web.StreamResponse:
        found = await self._own(call)
        if isinstance(found, web.Response):
            return found
        conversation, id = found[0], str(found[1]["Id"])
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(self._compared_start(call, conversation, id))
            try:
                outcome = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # A worker that hangs up must not get out of the comparison: the engine goes on.
                await asyncio.wait({starting})
                raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _compared_start(
        self, call: _Call, conversation: str, id: str
    ) -> web.Response | Exception:
        """Start it; what has other folders than were looked at, or may have, goes again.

        Mounted only now: what was a folder when it was created may be a link by this time.
        """
        try:
            with self._rules.held_folders(conversation) as held:
                try:
                    answer = await self._pass(_path(call, f"/containers/{id}/start"), "POST")
                    if self._rules.options.runtime in SHARING_RUNTIMES:
                        wrong = await self._wrong_mount(call, id, held)
                    else:
                        wrong = self._rules.first_exchanged(conversation, held)
                    if wrong is not None:
                        raise EngineCallRefused(wrong)
                except BaseException:
                    await self._ask(
                        "DELETE", _path(call, f"/containers/{id}"), query={"v": "1", "force": "1"}
                    )
                    raise
                return answer
        except (EngineCallRefused, aiohttp.ClientError, OSError, TimeoutError) as error:
            return error

    async def _wrong_mount(self, call: _Call, id: str, held: Mapping[str, int]) -> str | None:
        while pid := await self._pid_of(call, id):
            try:
                return await asyncio.to_thread(first_wrong_mount, held, pid, self._look)
            except (ProcessLookupError, FileNotFoundError) as error:
                if not await self._has_ended(call, id, pid):
                    return f"process {pid} cannot be seen ({error.strerror}): pid: host is missing"
        return None

    async def _has_ended(self, call: _Call, id: str, pid: int) -> bool:
        """Whether that process of it is gone, as the engine knows."""
        for _ in range(_LOOKS):
            if await self._pid_of(call, id) != pid:
                return True
            # The engine hears of an end a moment after it, and answers no question about when.
            await asyncio.sleep(_LOOK_PAUSE_S)
        return False

    async def _pid_of(self, call: _Call, id: str) -> int:
        """The process that runs in it; 0 when none does."""
        status, answer = await self._ask("GET", _path(call, f"/containers/{id}/json"))
        state = (json.loads(answer).get("State") or {}) if status == 200 else {}
        return int(state.get("Pid") or 0) if state.get("Running") else 0

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
        # As long as both sides live: silence is what most of it is.
        endless = aiohttp.ClientTimeout(total=None, sock_connect=self._call_timeout_s)
        async with self._engine.get(
            _BASE + _path(call, "/events"), params=query, timeout=endless
        ) as answer:
            told = web.StreamResponse(status=answer.status, headers=_type_of(answer))
            await told.prepare(call.request)
            async for part in answer.content.iter_any():
                await told.write(part)
        return told

    async def _own(self, call: _Call) -> web.Response | tuple[str, Json]:
        """Conversation and description of the container, or the answer that there is none."""
        status, answer = await self._ask("GET", _path(call, f"/containers/{call.name}/json"))
        if status != 200:
            return web.Response(body=answer, status=status, content_type="application/json")
        found = json.loads(answer)
        return self._rules.own_conversation(found), found

    async def _pass(
        self,
        path: str,
        method: str = "GET",
        *,
        query: dict[str, str] | None = None,
        body: Json = None,
        more_s: float = 0.0,
    ) -> web.Response:
        status, answer = await self._ask(method, path, query=query, body=body, more_s=more_s)
        return web.Response(body=answer, status=status, content_type="application/json")

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Json = None,
        more_s: float = 0.0,
    ) -> tuple[int, bytes]:
        async with (
            asyncio.timeout(self._call_timeout_s + more_s),
            self._engine.request(method, _BASE + path, params=query, json=body) as answer,
        ):
            told = bytearray()
            async for part in answer.content.iter_any():
                told += part
                if len(told) > ANSWER_MAX_BYTES:
                    raise EngineCallRefused("the engine's answer is too long")
            return answer.status, bytes(told)

    @property
    def _engine(self) -> aiohttp.ClientSession:
        assert self._session is not None, "not set up"
        return self._session


def _path(call: _Call, below: str) -> str:
    return f"/v{call.version}{below}"


def _type_of(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {"Content-Type": answer.headers.get("Content-Type", "application/json")}


def _told(status: int, message: str) -> web.Response:
    """In the engine's own form of an error, which its clients show."""
    return web.json_response({"message": message}, status=status)
