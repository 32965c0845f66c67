"""The worker-gateway protocol: JSON over HTTP on the gateway's control socket of a host.

    PUT    /sessions/{conversation}              OpenSession: create its sockets; GatewayStatus
    DELETE /sessions/{conversation}              close its sockets, wipe its keys
    GET    /turns                                a WebSocket, see below
    POST   /sessions/{conversation}/complete     SideCall: one model call; the upstream's SSE bytes
    GET    /upstream                             UpstreamHealth, after asking it now
    GET    /meters                               Meters: what the running turns have used so far
    POST   /logins/renew                         RenewLogin: a login at an MCP server; RenewedLogin
    GET    /health                               GatewayStatus

Over the WebSocket come `OpenTurn`, `CloseTurn` and `SealKey`, as binary messages; each is answered,
in order, by `GatewayStatus`, `TurnMeter` or `SealedKey`, or by `GatewayRefused`. (Workers of an
earlier build send the first two as requests: PUT /sessions/{conversation}/turn and DELETE
/sessions/{conversation}/turn/{turn}.)

The deletion takes `?fence=`, so that a stale owner cannot undo what a newer one has set up. A
refusal is a 4xx with `GatewayRefused`. All are idempotent. `GatewayStatus.instance` changes when
the gateway restarts; a worker that sees another one registers its sessions and open turns again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from infra.wire.agents.mcp import McpServer
from infra.wire.base import Message, decode
from infra.wire.events import Usage
from infra.wire.ids import ConversationKey, Fence, TenantId, TurnId
from infra.wire.mcp.logins import OpenLogin
from infra.wire.model.upstream_cause import UpstreamCause
from infra.wire.options import (
    NO_OPTIONS,
    NO_TURN_OPTIONS,
    ConversationOptions,
    TurnOptions,
)


class OpenSession(Message):
    """Listen on `model.sock` and `egress.sock` in `socket_dir`, a folder of the host that only this
    session uses."""

    type: Literal["open_session"] = "open_session"
    socket_dir: str
    fence: Fence


class OpenTurn(Message):
    """Until the turn is closed or expires, send model calls of the session upstream with the sealed
    key.

    Repeated for the turn that is already open, it only changes fence and budget.
    """

    type: Literal["open_turn"] = "open_turn"
    turn: TurnId
    tenant: TenantId
    conversation: ConversationKey
    fence: Fence
    sealed_key: str
    expires_ms: int
    """Unix time. The associated data of the sealed key contains the same number."""
    models: tuple[str, ...] = ()
    """Models that the turn may call; if empty, those of the gateway's own settings."""
    budget_tokens: int | None = None
    """The turn's calls stop when its meter here has counted this many (`Usage.spent_tokens`); None
    for no limit."""
    options: ConversationOptions = NO_OPTIONS
    """The conversation's, for this turn."""
    mcp_servers: Mapping[str, McpServer] = {}
    """The MCP servers of its agent, by the names that the agent knows."""
    turn_options: TurnOptions = NO_TURN_OPTIONS
    """The turn's own."""
    mcp_logins: Mapping[str, OpenLogin] = {}
    """The logins at its agent's MCP servers, by the names that the agent knows."""


class CloseTurn(Message):
    """Stop the turn's model calls and connections, and wipe its key.

    Without a fence it closes the turn of any owner; with one, it leaves a newer owner's turn alone.
    """

    type: Literal["close_turn"] = "close_turn"
    turn: TurnId
    conversation: ConversationKey
    fence: Fence | None = None


class SealKey(Message):
    """Seal the key of an open turn for the turn of an agent that it calls.

    The other turn is the same tenant's, and the key expires no later.
    """

    type: Literal["seal_key"] = "seal_key"
    turn: TurnId
    conversation: ConversationKey
    fence: Fence
    for_turn: TurnId
    for_conversation: ConversationKey


class SealedKey(Message):
    """The answer to `SealKey`."""

    type: Literal["sealed_key"] = "sealed_key"
    sealed_key: str
    expires_ms: int


class SideCall(Message):
    """One streamed call of the Messages API with the caller's key, for the side lane.

    Needs no open session or turn. `body` is the Messages API request. The answer is the upstream's
    status and body, streamed through. The upstream call ends when the worker disconnects.
    """

    type: Literal["side_call"] = "side_call"
    turn: TurnId
    tenant: TenantId
    conversation: ConversationKey
    sealed_key: str
    expires_ms: int
    body: dict[str, Any]


class UpstreamHealth(Message):
    """What a gateway knows of the model's service."""

    host: str
    """The name that the operator's setting has, with its port if that is unusual."""
    cause: UpstreamCause | None = None
    """Why it does not answer; None if it does, or if nothing is known."""
    since_ms: int | None = None
    """Since when that is so (unix time); None: nothing is known yet."""

    @property
    def is_known(self) -> bool:
        return self.since_ms is not None


class UpstreamError(Message):
    """The last error from the upstream during a turn."""

    status: int
    kind: str | None = None
    retry_after_s: float | None = None
    away: UpstreamHealth | None = None
    """If it did not answer at all: why."""


class ModelUsage(Message):
    """What the calls of one model used."""

    calls: int = 0
    usage: Usage = Usage()


class TurnMeter(Message):
    """What a turn used in total, as metered by one instance of the gateway (`instance`).

    The figures only grow while the instance is the same, so reading them twice is harmless.
    """

    type: Literal["turn_meter"] = "turn_meter"
    calls: int = 0
    usage: Usage = Usage()
    last_error: UpstreamError | None = None
    instance: str = ""
    models: Mapping[str, ModelUsage] = {}
    """The same by requested model."""
    is_over_budget: bool = False
    """Whether a call was refused or cut off because the turn's budget was used up."""


class Meters(Message):
    """The meters of all running turns of the host."""

    type: Literal["meters"] = "meters"
    instance: str
    turns: Mapping[TurnId, TurnMeter] = {}


class GatewayStatus(Message):
    """The gateway is up. `instance` is new each time it starts."""

    type: Literal["gateway_status"] = "gateway_status"
    instance: str
    sessions: int = 0
    turns: int = 0
    upstream: UpstreamHealth | None = None
    """None from a gateway of before."""


class GatewayFault(StrEnum):
    """Why the gateway refused a command."""

    BAD_REQUEST = "bad_request"
    STALE_FENCE = "stale_fence"
    KEY_NOT_OPENED = "key_not_opened"
    NO_SESSION = "no_session"
    """The gateway does not know the session, because it restarted. Open the session again."""
    NO_SOCKETS = "no_sockets"
    """The session's sockets could not be created in the requested folder."""


class GatewayRefused(Message):
    """A command was not carried out. `fence` is the current one if ours was stale."""

    type: Literal["gateway_refused"] = "gateway_refused"
    fault: GatewayFault
    message: str
    fence: Fence | None = None


TurnCommand = Annotated[OpenTurn | CloseTurn | SealKey, Field(discriminator="type")]
TurnAnswer = Annotated[
    GatewayStatus | TurnMeter | SealedKey | GatewayRefused, Field(discriminator="type")
]
_TURN_COMMAND: TypeAdapter[TurnCommand] = TypeAdapter(TurnCommand)
_TURN_ANSWER: TypeAdapter[TurnAnswer] = TypeAdapter(TurnAnswer)
_OPEN_SESSION = TypeAdapter(OpenSession)
_OPEN_TURN = TypeAdapter(OpenTurn)
_SIDE_CALL = TypeAdapter(SideCall)
_REFUSED = TypeAdapter(GatewayRefused)


def decode_open_session(raw: bytes) -> OpenSession:
    """Raises `MalformedMessage`."""
    command: OpenSession = decode(_OPEN_SESSION, raw)
    return command


def decode_open_turn(raw: bytes) -> OpenTurn:
    """Raises `MalformedMessage`."""
    command: OpenTurn = decode(_OPEN_TURN, raw)
    return command


def decode_turn_command(raw: bytes) -> TurnCommand:
    """Raises `UnknownMessage` and `MalformedMessage`."""
    command: TurnCommand = decode(_TURN_COMMAND, raw)
    return command


def decode_turn_answer(raw: bytes) -> TurnAnswer:
    """Raises `UnknownMessage` and `MalformedMessage`."""
    answer: TurnAnswer = decode(_TURN_ANSWER, raw)
    return answer


def decode_side_call(raw: bytes) -> SideCall:
    """Raises `MalformedMessage`."""
    call: SideCall = decode(_SIDE_CALL, raw)
    return call


def decode_refused(raw: bytes) -> GatewayRefused:
    """Raises `MalformedMessage`."""
    refused: GatewayRefused = decode(_REFUSED, raw)
    return refused


def decode_meter(raw: bytes) -> TurnMeter:
    """Raises `MalformedMessage`."""
    meter: TurnMeter = decode(TypeAdapter(TurnMeter), raw)
    return meter


def decode_meters(raw: bytes) -> Meters:
    """Raises `MalformedMessage`."""
    meters: Meters = decode(TypeAdapter(Meters), raw)
    return meters


def decode_upstream(raw: bytes) -> UpstreamHealth:
    """Raises `MalformedMessage`."""
    health: UpstreamHealth = decode(TypeAdapter(UpstreamHealth), raw)
    return health


def decode_status(raw: bytes) -> GatewayStatus:
    """Raises `MalformedMessage`."""
    status: GatewayStatus = decode(TypeAdapter(GatewayStatus), raw)
    return status
