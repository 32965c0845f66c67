"""The gateway's own error answers, in the format of the Messages API.

Each says whether a retry helps (`x-should-retry`), and the CLI follows it.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import aiohttp
from aiohttp import web

from infra.runtime.logs import fields
from infra.wire.errors import AgClusterError
from infra.wire.ids import TurnId
from infra.wire.text.foreign import foreign

log = logging.getLogger(__name__)


class CallRefused(AgClusterError):
    """A request that the upstream does not get to answer."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        is_retry_pointless: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.is_retry_pointless = is_retry_pointless
        self.retry_after_s = retry_after_s

    def as_response(self) -> web.Response:
        """The error in the Messages API's format."""
        headers = {"x-should-retry": "false" if self.is_retry_pointless else "true"}
        if self.retry_after_s is not None:
            headers["retry-after"] = f"{self.retry_after_s:.0f}"
        return web.json_response(
            _error(self.kind, self.message), status=self.status, headers=headers
        )


def error_event(kind: str, message: str) -> bytes:
    """The same as the last event of a stream."""
    return b"event: error\ndata: %b\n\n" % json.dumps(_error(kind, message)).encode()


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def too_large(body_max_bytes: int) -> CallRefused:
    """The answer to a request beyond the size limit."""
    message = f"The request is larger than {body_max_bytes} bytes."
    return CallRefused(413, "request_too_large", message)


def unreachable(turn: TurnId, error: Exception, *, is_final: bool = False) -> CallRefused:
    """The upstream did not answer. A retry may help, unless the certificate is the cause or it was
    tried often enough."""
    is_final = is_final or isinstance(error, aiohttp.ClientSSLError | aiohttp.InvalidURL)
    log.warning("upstream unreachable", extra=fields(turn=turn, reason=foreign(str(error))))
    what = "does not answer in time" if isinstance(error, TimeoutError) else "cannot be reached"
    return CallRefused(502, "api_error", f"The model's server {what}.", is_retry_pointless=is_final)
