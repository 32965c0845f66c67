"""Who may call an agent, and what of a request is read before its binding reads the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from a2a.utils.constants import VERSION_HEADER
from a2a.utils.errors import VersionNotSupportedError
from fastapi import Request

from api.a2a.body import read_json
from api.a2a.errors import ProtocolRefusal
from api.a2a.service import AgentCall
from api.access.admission import Admission
from api.http.auth import Caller
from api.http.bodies import LargeBodies, held_while_read, json_body
from api.http.drain import Drain
from api.http.edge import held_body
from infra.wire.errors import ErrorCode, RequestRefused

T = TypeVar("T")

MAJOR = "1"


class CallGate:
    """Lets calls in."""

    def __init__(
        self, admission: Admission, *, drain: Drain, large: LargeBodies, public_url: str | None
    ) -> None:
        self._admission = admission
        self._drain = drain
        self._large = large
        self._public_url = public_url

    async def call(self, request: Request, agent: str) -> AgentCall:
        """The call, without its body. Raises `RequestRefused`."""
        caller = await self._admission.admit(request)
        if self._drain.is_closed:
            raise RequestRefused("", code=ErrorCode.SHUTTING_DOWN)
        return AgentCall(caller, agent, request.headers, self.base_url(request))

    async def greet(self, request: Request) -> Caller | None:
        """Who asks for a card; None without a key. Raises `RequestRefused` for a bad one."""
        return await self._admission.greet(request)

    async def body(
        self, request: Request, caller: Caller, read: Callable[[dict[str, Any]], T]
    ) -> tuple[T, int]:
        """What `read` makes of the body's JSON (no body is an empty object), and its size in bytes.

        Raises `RequestRefused` and `ProtocolRefusal`.
        """
        held_body(request).belong(caller.tenant)
        body = await json_body(request)
        held_body(request).hold(held_while_read(body))
        told = await self._large.read(
            len(body), lambda: read(read_json(body or b"{}")), tenant=caller.tenant
        )
        return told, len(body)

    def base_url(self, request: Request) -> str:
        """Where this API is reached: as its operator says, otherwise as this client did."""
        return self._public_url or str(request.base_url).rstrip("/")


def check_version(request: Request) -> None:
    """Raises `ProtocolRefusal` for another version than 1. A client that names none speaks 0.3."""
    name = VERSION_HEADER
    version = request.headers.get(name) or request.query_params.get(name) or "0.3"
    if version.partition(".")[0] != MAJOR:
        raise ProtocolRefusal(
            VersionNotSupportedError,
            f"This agent speaks A2A 1.0. Send the header `{name}: 1.0`.",
        )
