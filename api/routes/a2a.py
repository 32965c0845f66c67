"""`/a2a/{agent}`: each agent as an A2A 1.0 server, in JSON-RPC and in HTTP+JSON.

The routes exist if `AGCLUSTER_A2A` is on; only then is the SDK imported. They are not in our
OpenAPI document, for the agents' cards describe them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    SendMessageRequest,
    SendMessageResponse,
    SubscribeToTaskRequest,
)
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from a2a.utils.errors import (
    ExtendedAgentCardNotConfiguredError,
    InvalidParamsError,
    InvalidRequestError,
    MethodNotFoundError,
    PushNotificationNotSupportedError,
)
from fastapi import APIRouter, Request
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.responses import Response

from api.a2a.answers import Binding, LoneTask, RpcBinding, TaskStream, WholeTask
from api.a2a.body import read_message, read_query
from api.a2a.card import card_of
from api.a2a.errors import ProtocolRefusal
from api.a2a.gate import CallGate, check_version
from api.a2a.parts import PartReader
from api.a2a.read import MessageReader, no_agent
from api.a2a.service import AgentCall, AgentService, RunningTask
from api.a2a.tasks import Tasks
from api.deps import ApiDeps
from api.files.given import FileBounds
from api.http.edge import forget_headers, held_body
from infra.wire.errors import AgClusterError

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
Method = Callable[[Any, AgentCall, Binding, Request], Awaitable[Response]]
"""Answers a call in any binding."""
REST = Binding()


def a2a_routes(deps: ApiDeps) -> APIRouter:
    """All of them."""
    return A2aRoutes(deps).router()


class A2aRoutes:
    """The endpoints of every agent."""

    def __init__(self, deps: ApiDeps) -> None:
        self._deps = deps
        settings = deps.settings
        self._gate = CallGate(
            deps.admission,
            drain=deps.drain,
            large=deps.large,
            public_url=settings.public_url,
        )
        self._service = AgentService(
            MessageReader(
                PartReader(deps.files, bounds=FileBounds.of(settings)),
                agents=deps.agents,
                egress_profiles=frozenset(settings.egress_profiles),
            ),
            tasks=Tasks(
                lookup=deps.lookup, sessions=deps.sessions, links=deps.links, clock=deps.clock
            ),
            turns=deps.turns,
            lookup=deps.lookup,
            clock=deps.clock,
            cancel_grace_s=settings.disconnect_grace_s,
            tool_display=settings.tool_display,
        )
        self._methods: Mapping[str, tuple[type[Message], Method]] = {
            "SendMessage": (SendMessageRequest, self._send),
            "SendStreamingMessage": (SendMessageRequest, self._stream),
            "GetTask": (GetTaskRequest, self._get),
            "ListTasks": (ListTasksRequest, self._list),
            "CancelTask": (CancelTaskRequest, self._cancel),
            "SubscribeToTask": (SubscribeToTaskRequest, self._subscribe),
        }

    def router(self) -> APIRouter:
        """Their routes."""
        router = APIRouter(prefix="/a2a/{agent}", include_in_schema=False)
        for method, path, endpoint in (
            ("GET", AGENT_CARD_WELL_KNOWN_PATH, self.card),
            ("POST", "", self.rpc),
            ("POST", "/message:send", self._rest(SendMessageRequest, self._send)),
            ("POST", "/message:stream", self._rest(SendMessageRequest, self._stream)),
            ("GET", "/tasks", self._rest(ListTasksRequest, self._list)),
            ("POST", "/tasks/{id}:cancel", self._rest(CancelTaskRequest, self._cancel)),
            ("GET", "/tasks/{id}:subscribe", self._rest(SubscribeToTaskRequest, self._subscribe)),
            ("POST", "/tasks/{id}:subscribe", self._rest(SubscribeToTaskRequest, self._subscribe)),
            ("GET", "/tasks/{id}", self._rest(GetTaskRequest, self._get)),
            ("GET", "/extendedAgentCard", self._rest(GetTaskRequest, _no_extended_card)),
            ("POST", _PUSH_PATH, self._rest(GetTaskRequest, _no_push)),
            ("GET", _PUSH_PATH, self._rest(GetTaskRequest, _no_push)),
        ):
            router.add_api_route(path, endpoint, methods=[method], response_model=None)
        return router

    async def card(self, request: Request, agent: str) -> Response:
        """The agent's card, for all who may use it. An agent that is for everybody shows it without
        a key, as `GET /v1/models` does."""
        try:
            caller = await self._gate.greet(request)
            profile = self._deps.agents.offered(caller).get(agent)
            if profile is None:
                raise no_agent()
        except AgClusterError as error:
            return REST.refusal(error)
        url = f"{self._gate.base_url(request)}/a2a/{agent}"
        return RpcBinding(None).plain(card_of(agent, profile, url=url))

    async def rpc(self, request: Request, agent: str) -> Response:
        """A call by JSON-RPC."""
        binding = RpcBinding(None)
        try:
            call = await self._gate.call(request, agent)
            told, size = await self._gate.body(request, call.caller, lambda told: told)
            binding = RpcBinding(_id_of(told))
            check_version(request)
            kind, method = self._method(told)
            params = told.get("params", {})
            if not isinstance(params, dict):
                raise ProtocolRefusal(InvalidParamsError, "`params` must be an object.")
            asked = read_message(params, kind())
            return await method(asked, call.sized(size), binding, request)
        except (AgClusterError, ProtocolRefusal) as error:
            return binding.refusal(error)

    def _method(self, told: Mapping[str, Any]) -> tuple[type[Message], Method]:
        if told.get("jsonrpc") != "2.0" or not isinstance(name := told.get("method"), str):
            raise ProtocolRefusal(InvalidRequestError, 'Send `"jsonrpc": "2.0"` and a `method`.')
        if name.endswith(("PushNotificationConfig", "PushNotificationConfigs")):
            raise ProtocolRefusal(PushNotificationNotSupportedError)
        if name == "GetExtendedAgentCard":
            raise ProtocolRefusal(ExtendedAgentCardNotConfiguredError)
        if name not in self._methods:
            raise ProtocolRefusal(MethodNotFoundError)
        return self._methods[name]

    def _rest(self, kind: type[Message], method: Method) -> Callable[..., Awaitable[Response]]:
        """The endpoint of a method in HTTP+JSON: body or query, and the path, make the message."""

        async def endpoint(request: Request, agent: str) -> Response:
            try:
                call = await self._gate.call(request, agent)
                check_version(request)
                path = {"id": request.path_params["id"]} if "id" in request.path_params else {}
                if request.method == "GET":
                    asked = read_message(path, read_query(request.query_params, kind()))
                else:
                    asked, size = await self._gate.body(
                        request, call.caller, lambda told: read_message(told | path, kind())
                    )
                    call = call.sized(size)
                return await method(asked, call, REST, request)
            except (AgClusterError, ProtocolRefusal) as error:
                return REST.refusal(error)

        return endpoint

    async def _send(
        self, asked: SendMessageRequest, call: AgentCall, binding: Binding, request: Request
    ) -> Response:
        running = await self._begin(asked, call, request)
        if asked.configuration.return_immediately:
            task = await self._service.let_run(running, call)
            return binding.answer(SendMessageResponse(task=task))
        return WholeTask(running, binding, clock=self._deps.clock)

    async def _stream(
        self, asked: SendMessageRequest, call: AgentCall, binding: Binding, request: Request
    ) -> Response:
        return self._streamed(await self._begin(asked, call, request), binding)

    async def _begin(
        self, asked: SendMessageRequest, call: AgentCall, request: Request
    ) -> RunningTask:
        running = await self._service.send(asked, call)
        held_body(request).hold(0)  # The answer needs nothing of it.
        forget_headers(request)
        return running

    def _streamed(self, running: RunningTask, binding: Binding) -> Response:
        settings = self._deps.settings
        return TaskStream(
            running,
            binding,
            clock=self._deps.clock,
            ping_interval_s=settings.ping_interval_s,
            send_timeout_s=settings.send_timeout_s,
        )

    async def _get(
        self, asked: GetTaskRequest, call: AgentCall, binding: Binding, _: Request
    ) -> Response:
        return binding.answer(await self._service.get(asked, call))

    async def _list(
        self, asked: ListTasksRequest, call: AgentCall, binding: Binding, _: Request
    ) -> Response:
        listed: ListTasksResponse = await self._service.list(asked, call)
        told = MessageToDict(listed, always_print_fields_with_no_presence=True)
        return binding.answer_with(told)

    async def _cancel(
        self, asked: CancelTaskRequest, call: AgentCall, binding: Binding, _: Request
    ) -> Response:
        return binding.answer(await self._service.cancel(asked, call))

    async def _subscribe(
        self, asked: SubscribeToTaskRequest, call: AgentCall, binding: Binding, request: Request
    ) -> Response:
        found = await self._service.subscribe(asked, call)
        if not isinstance(found, RunningTask):
            return LoneTask(found, binding)
        forget_headers(request)
        return self._streamed(found, binding)


_PUSH_PATH = "/tasks/{id}/pushNotificationConfigs"


async def _no_push(*_: object) -> Response:
    raise ProtocolRefusal(PushNotificationNotSupportedError)


async def _no_extended_card(*_: object) -> Response:
    raise ProtocolRefusal(ExtendedAgentCardNotConfiguredError)


def _id_of(told: Mapping[str, Any]) -> str | int | None:
    """The call's id, if it has the form of one."""
    id = told.get("id")
    return id if isinstance(id, str | int) and not isinstance(id, bool) else None
