"""One endpoint is reached without the framework; everything else is not its affair."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from api.http.hot_route import HotEndpoint, HotRoute


async def framework(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("framework")(scope, receive, send)


async def endpoint(request: Request) -> Response:
    return PlainTextResponse(b"endpoint " + await request.body())


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("POST", "/hot", b"endpoint hello"),
        ("POST", "/as-hot", b"endpoint hello"),
        ("GET", "/hot", b"framework"),
        ("OPTIONS", "/hot", b"framework"),
        ("POST", "/hot/1", b"framework"),
    ],
)
async def test_only_posts_to_the_hot_paths_pass_the_framework(
    method: str, path: str, told: bytes
) -> None:
    sent = bytearray()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"hello", "more_body": False}

    async def send(message: Message) -> None:
        sent.extend(message.get("body", b""))

    app = HotRoute(HotEndpoint(endpoint, path="/hot"), framework, paths=("/hot", "/as-hot"))
    await app({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    assert sent == told
