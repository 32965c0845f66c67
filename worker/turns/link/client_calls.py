"""Checks that an agent calls only what the client of its turn has offered. Pure."""

from __future__ import annotations

from infra.wire.errors import MalformedMessage
from infra.wire.events import ClientCall, EndReason, Event, TurnEnded
from infra.wire.options import ClientTools


def check_calls(event: Event | None, offered: ClientTools | None) -> None:
    """Raises `MalformedMessage` for a call of anything else, or in another form, and for an end
    with calls of a turn that offers nothing.

    Clients run what they are told to call, and some would go on for ever.
    """
    match event:
        case ClientCall(name=name, is_legacy=is_legacy):
            names = {tool.name for tool in offered.tools} if offered else set()
            if name not in names or (offered and is_legacy is not offered.is_legacy):
                raise MalformedMessage("a call of a function that the client does not offer")
        case TurnEnded(end_reason=EndReason.CALLS) if offered is None:
            raise MalformedMessage("an end with calls of a turn that offers no functions")
