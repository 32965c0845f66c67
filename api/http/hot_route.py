"""The shortest way to one endpoint, past the framework.

FastAPI's routing, dependencies and exception layers cost as much as everything else before a turn
is submitted, and hold memory for as long as an answer is open. The framework still has the route:
it describes it in the OpenAPI document and answers other methods, and other forms of its paths.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class HotRoute:
    """Gives POST requests at these paths to one application, and everything else to the other."""

    def __init__(self, hot: ASGIApp, framework: ASGIApp, *, paths: Collection[str]) -> None:
        self._hot = hot
        self._framework = framework
        self._paths = frozenset(paths)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_hot = scope["type"] == "http" and scope["method"] == "POST"
        app = self._hot if is_hot and scope["path"] in self._paths else self._framework
        return app(scope, receive, send)


class HotEndpoint:
    """An endpoint as an application. It raises our errors as they are: the edge answers them."""

    def __init__(self, respond: Callable[[Request], Awaitable[Response]], *, path: str) -> None:
        """`path` names it among the routes, whichever of its paths was asked."""
        self.path = path
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        answer = await self._respond(Request(scope, receive, send))
        await answer(scope, receive, send)
