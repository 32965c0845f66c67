"""The client's functions in the side lane: calls in an answer as events. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable

from infra.wire.events import ClientCall
from infra.wire.ids import client_call_id
from infra.wire.options import ClientTools
from worker.side.messages_api import SideCallMade


def client_calls(made: Iterable[SideCallMade], functions: ClientTools) -> list[ClientCall]:
    """The calls of these functions. One whose arguments are no JSON object is left out: the model
    was cut off in it, or calls nothing that a client could run."""
    known = {tool.name for tool in functions.tools}
    told = [_told(call, functions) for call in made if call.name in known]
    calls = [call for call in told if call is not None]
    return calls if functions.is_parallel else calls[:1]


def _told(call: SideCallMade, functions: ClientTools) -> ClientCall | None:
    try:
        given = json.loads(call.input or "{}")
        # Python reads and writes numbers that are no JSON (`NaN`, `1e999`).
        arguments = json.dumps(given, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict):
        return None
    return ClientCall(
        id=client_call_id(call.id),
        name=call.name,
        arguments=arguments,
        is_legacy=functions.is_legacy,
    )
