"""Tools that a turn offers to the model beside the CLI's own, and calls of the CLI's own tools that
wait for an approval.

The CLI takes them from a tool server in this process, which a control request puts in place for a
turn and takes away again (`Cli.offer`). A hook before each call asks the offer what to do with it:
it is answered at once, carried out while the turn waits (`Offer.run`), or stays open. An open call
ends the turn, and its result comes with a later prompt, as a block of type `tool_result`.

Both doors were found by experiment (`tests/contract/agent/sdk/`): the request
`mcp_set_servers`, and the hook's decision `defer`. The SDK's own bridge to such a server needs
`mcp`, which takes most of a second to import; the four messages that the CLI sends need nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from claude_agent_sdk import HookMatcher
from claude_agent_sdk.types import HookEvent

Json = dict[str, Any]

MCP_PREFIX = "mcp__"
"""The beginning of the names of tool servers' tools. No offer has such a name."""

_NOT_HERE = "This tool can only be called by the main agent. Give your findings as text instead."
_LOST = "The call was not made. Make it again."
_USE_ID = "claudecode/toolUseId"
_ENDS_TURN = "claude/endTurn"
_METHOD_NOT_FOUND = -32601
_DECIDES_S = 3600.0
"""How long the CLI waits for a decision. It takes no time, but a machine may sleep."""


@dataclass(frozen=True)
class OfferedCall:
    """A call of an offered tool, as the model made it. The input is not checked by the CLI."""

    id: str
    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True)
class CallReply:
    """What the model is told at once about its call."""

    text: str
    is_error: bool = True
    ends_turn: bool = False
    """The turn ends with it, and the model is not called again."""


Judge = Callable[[OfferedCall], CallReply | None]
"""Decides about a call; None leaves it open, which ends the turn. Must not block."""

Run = Callable[[OfferedCall], Awaitable[CallReply]]
"""Carries a call out while the turn waits. Cancelled if the CLI gives the call up."""


class _Hold(Enum):
    HOLD = "hold"


HOLD = _Hold.HOLD
"""The call stays open, which ends the turn."""
Hold = Literal[_Hold.HOLD]
Gate = Callable[[OfferedCall, bool], Hold | str | None]
"""Decides about a call of any other tool, told whether it is a sub-agent's: it stays open, is
refused for that reason, or is made. Must not block."""


@dataclass(frozen=True)
class Offer:
    """A tool that is offered for one turn.

    `schema` is the JSON Schema of its input, for the model. The name must not be one of the CLI's
    own tools.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    judge: Judge
    run: Run | None = None
    """For a tool whose calls are carried out; then `judge` is not asked."""

    @property
    def listed(self) -> Json:
        """The tool as a tool server lists it."""
        return {
            "name": self.name,
            "description": self.description,
            "inputSchema": dict(self.schema),
            # Otherwise the CLI asks about them one after the other.
            "annotations": {"readOnlyHint": True},
        }


class Offers:
    """What one CLI offers at the moment, and the calls that were left open."""

    def __init__(self) -> None:
        self._offers: Mapping[str, Offer] = {}
        self._replies: dict[str, CallReply] = {}
        self._open: dict[str, OfferedCall] = {}
        self._gate: Gate | None = None

    @property
    def open_calls(self) -> Mapping[str, OfferedCall]:
        """The calls of this turn that were left open, by their ids."""
        return self._open

    def take(self, offers: Iterable[Offer], gate: Gate | None = None) -> bool:
        """Offer these from now on, and ask the gate about other calls. Returns whether the CLI has
        to be told."""
        new = {offer.name: offer for offer in offers}
        is_other = _listed(new) != _listed(self._offers)
        self._offers, self._gate = new, gate
        self._replies.clear()
        self._open.clear()
        return is_other

    def hooks(
        self, own: Collection[str], *, has_gate: bool = False
    ) -> dict[HookEvent, list[HookMatcher]]:
        """The hooks for the SDK. `own` are the CLI's tools. Without a gate their calls, and those
        of tool servers, are none of our business and cost nothing."""
        if has_gate:
            # A hook that fails must not let the call pass.
            every = HookMatcher(hooks=[self._before_call], timeout=_DECIDES_S, on_failure="block")
            return {"PreToolUse": [every]}
        names = "|".join(sorted(map(re.escape, own)))
        pattern = rf"^(?!{MCP_PREFIX}|(?:{names})$)"
        matcher = HookMatcher(matcher=pattern, hooks=[self._before_call])
        return {"PreToolUse": [matcher]}

    async def _before_call(self, given: Any, id: str | None, _: Any) -> Any:
        offer = self._offers.get(str(given.get("tool_name")))
        if offer is None or id is None:
            return self._gated(given, id)
        call = OfferedCall(id, offer.name, given.get("tool_input") or {})
        # Left open in a sub-agent, a call would be lost with all that the sub-agent found.
        reply = CallReply(_NOT_HERE) if given.get("agent_id") else None
        if reply is None and offer.run is not None:
            return self._gated(given, id)
        reply = reply or offer.judge(call)
        if reply is not None:
            self._replies[id] = reply
            return {}
        self._open[id] = call
        return _decided("defer")

    def _gated(self, given: Any, id: str | None) -> Any:
        if self._gate is None:
            return {}
        call = OfferedCall(id or "", str(given.get("tool_name")), given.get("tool_input") or {})
        decided = self._gate(call, bool(given.get("agent_id")))
        if decided is HOLD and id is not None:
            self._open[id] = call
            return _decided("defer")
        if decided is None:
            return {}
        return _decided("deny", permissionDecisionReason=_LOST if decided is HOLD else decided)

    async def called(self, call: OfferedCall) -> Json:
        """The result of a call that the CLI carries out."""
        id, offer = call.id, self._offers.get(call.name)
        reply = self._replies.pop(id, None)
        if reply is None and offer is not None and offer.run is not None:
            reply = await offer.run(call)
        if reply is None:
            # The CLI ignores the hook's decision if it got several calls in an answer that was not
            # streamed.
            self._open.pop(id, None)
            reply = CallReply(_LOST)
        result: Json = {
            "content": [{"type": "text", "text": reply.text}],
            "isError": reply.is_error,
        }
        return result | ({"_meta": {_ENDS_TURN: True}} if reply.ends_turn else {})

    def server(self) -> OfferServer:
        """A tool server with what is offered now."""
        return OfferServer([offer.listed for offer in self._offers.values()], self.called)


class OfferServer:
    """Speaks to the CLI as a tool server; stands in for the SDK's bridge to one."""

    def __init__(
        self, listed: list[Json], called: Callable[[OfferedCall], Awaitable[Json]]
    ) -> None:
        self._listed = listed
        self._called = called

    async def handle(self, message: Mapping[str, Any]) -> Json | None:
        """Answer a message of the CLI; None for one that gets no answer."""
        if "id" not in message:
            return None
        given = message.get("params") or {}
        head = {"jsonrpc": "2.0", "id": message["id"]}
        match message.get("method"):
            case "initialize":
                result: Json = {
                    "protocolVersion": given.get("protocolVersion"),
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "offered", "version": "1"},
                }
            case "tools/list":
                result = {"tools": self._listed}
            case "tools/call":
                id = str((given.get("_meta") or {}).get(_USE_ID))
                called = given.get("arguments") or {}
                result = await self._called(OfferedCall(id, str(given.get("name")), called))
            case "ping":
                result = {}
            case _:
                error = {"code": _METHOD_NOT_FOUND, "message": "unknown method"}
                return {**head, "error": error}
        return {**head, "result": result}

    async def aclose(self) -> None:
        """Nothing is open."""


def _decided(decision: str, **more: str) -> Json:
    told = {"hookEventName": "PreToolUse", "permissionDecision": decision, **more}
    return {"hookSpecificOutput": told}


def _listed(offers: Mapping[str, Offer]) -> list[Json]:
    return [offer.listed for offer in offers.values()]
