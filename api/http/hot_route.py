"""The shortest way to one endpoint, past the framework's layers.

FastAPI's routing, dependencies and exception layers cost as much as everything else before a turn
is submitted. The framework still has the route: it describes it in the OpenAPI document and answers
other methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class HotRoute:
    """Gives POST requests at these paths to the endpoint, and all others to the application.

    The endpoint raises our errors as they are: `api.http.edge`, which is around it, answers them.
    """

    def __init__(self, app: ASGIApp, *, endpoint: Endpoint, paths: Collection[str]) -> None:
        self._app = app
        self._endpoint = endpoint
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = scope["type"] == "http" and scope["method"] == "POST"
        if not is_ours or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        answer = await self._endpoint(Request(scope, receive, send))
        await answer(scope, receive, send)
