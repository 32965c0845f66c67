"""Gives what agents made a host name of its own, so that it shares no origin with anything else."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import routing_error

LINKS_AT = "/v1/artifacts"
"""The beginning of the paths of links to files. Behind it: the token, and the file's name, which
only people and browsers read."""


class FilesHost:
    """At that host there are files and nothing else; at others, links to files lead there.

    A proxy in front has to pass the `Host` header on.
    """

    def __init__(self, app: ASGIApp, *, files_url: str) -> None:
        self._app = app
        self._files_url = files_url
        self._host = urlsplit(files_url).netloc.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_here = Headers(scope=scope).get("host", "").lower() == self._host
        is_file = scope["path"].startswith(f"{LINKS_AT}/")
        if is_here is is_file:
            await self._app(scope, receive, send)
        elif is_file:
            to = f"{self._files_url}{scope['raw_path'].decode('latin-1')}"
            await RedirectResponse(to, status_code=308)(scope, receive, send)
        else:
            await routing_error(404, scope["method"], scope["path"], {})(scope, receive, send)
