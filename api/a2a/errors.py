"""Errors in A2A's form. The only place that chooses one.

A2A names some errors itself, by a number in JSON-RPC and a reason in HTTP+JSON. Every other error
of ours has the status of `api.errors`, and its code as the reason. Neither form quotes the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from a2a.utils.errors import (
    A2A_ERROR_MAPPING,
    JSON_RPC_ERROR_CODE_MAP,
    A2AError,
    InvalidParamsError,
    InvalidRequestError,
    TaskNotFoundError,
)

from api.errors import error_headers, message_of, status_of
from infra.wire.errors import AgClusterError, ErrorCode, RequestRefused

_SERVER_ERROR = -32000
"""JSON-RPC's number for what a server adds; which one it is says the reason."""
_DOMAIN = "a2a-protocol.org"
_OUR_DOMAIN = "agcluster"
_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_GRPC_STATUS: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class ProtocolRefusal(Exception):
    """An A2A error that A2A itself names: `kind` is one of the SDK's classes."""

    def __init__(self, kind: type[A2AError], message: str | None = None) -> None:
        super().__init__(message or kind.message)
        self.kind = kind


@dataclass(frozen=True)
class ToldFailure:
    """An error as both bindings tell it."""

    status: int
    """Of HTTP."""
    number: int
    """Of JSON-RPC."""
    grpc_status: str
    reason: str
    message: str
    domain: str = _OUR_DOMAIN
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def rpc_status(self) -> int:
        """The status of a JSON-RPC answer: what A2A names is an answer like any other."""
        return HTTPStatus.OK if self.domain == _DOMAIN else self.status

    def rpc(self) -> dict[str, Any]:
        """As the `error` of a JSON-RPC answer."""
        return {"code": self.number, "message": self.message, "data": [self._info()]}

    def rest(self) -> dict[str, Any]:
        """As the `error` of an HTTP+JSON answer."""
        return {
            "code": self.status,
            "status": self.grpc_status,
            "message": self.message,
            "details": [self._info()],
        }

    def _info(self) -> dict[str, Any]:
        return {
            "@type": _INFO,
            "reason": self.reason,
            "domain": self.domain,
            "metadata": dict(self.metadata),
        }


def failure_of(error: AgClusterError | ProtocolRefusal) -> ToldFailure:
    """How A2A tells an error."""
    if isinstance(error, ProtocolRefusal):
        return _named(error.kind, str(error))
    if error.code is ErrorCode.TURN_NOT_FOUND:
        return _named(TaskNotFoundError, "There is no task with this id, or no longer.")
    message = message_of(error)
    if error.code is ErrorCode.INVALID_REQUEST:
        param = error.param if isinstance(error, RequestRefused) else None
        return _named(InvalidParamsError, message, {"field": param} if param else {})
    status = status_of(error)
    return ToldFailure(
        status,
        _SERVER_ERROR,
        _GRPC_STATUS.get(status, "INTERNAL"),
        error.code.value.upper(),
        message,
        metadata={"code": error.code.value},
        headers=error_headers(error),
    )


def _named(
    kind: type[A2AError], message: str, metadata: Mapping[str, str] | None = None
) -> ToldFailure:
    told = A2A_ERROR_MAPPING.get(kind, A2A_ERROR_MAPPING[InvalidRequestError])
    return ToldFailure(
        told.http_code,
        JSON_RPC_ERROR_CODE_MAP[kind],
        told.grpc_status,
        told.reason,
        message,
        domain=_DOMAIN,
        metadata=metadata or {},
    )
