"""Calls from pages in a browser (CORS), for the origins that an operator lists; by default none.

Never with credentials: the page sends the key itself, and we use no cookies.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from api.errors import error_response
from infra.wire.errors import RequestRefused

EXPOSED_HEADERS = (
    "retry-after",
    "x-conversation-id",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
    "x-should-retry",
)


class CrossOrigin(CORSMiddleware):
    """Starlette's middleware, with refusals in the form of our errors.

    Any header is allowed: OpenAI's clients add a dozen of their own, and more with each version.
    """

    def __init__(self, app: ASGIApp, *, allow_origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=allow_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        refusal = error_response(RequestRefused(f"{bytes(answer.body).decode()}."))
        refusal.headers["vary"] = answer.headers["vary"]
        return refusal
