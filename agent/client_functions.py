"""The client's functions in one turn: offered to the model, checked when called, told at the end.

Only the client can run them, so a good call stays open and ends the turn. A call with arguments
that the function's schema does not allow is given back to the model, which makes it again. Pure
apart from loading the schema checker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from agent.cli.offers import MCP_PREFIX, CallReply, Offer, OfferedCall
from agent.cli.without_mcp import load_left_out
from infra.wire.events import ClientCall
from infra.wire.ids import client_call_id
from infra.wire.options import AnswerForm, ClientTool, ClientTools
from infra.wire.text.characters import whole
from infra.wire.turns import CallBlock, ContentBlock, HistoryMessage

WRONG_MAX = 5
"""The turn is given up with this many calls whose arguments are wrong."""
CALLS_MAX = 64
"""Calls that one turn may end with."""
ARGUMENTS_MAX_BYTES = 256 * 1024
"""Arguments of one call, as they are sent to the client."""

Check = Callable[[object], str | None]
"""What is wrong with the arguments, in words for the model; None if nothing is."""

ASKING = "agcluster_ask_user"
"""A client that sends a function of this name gets what its user is asked as calls of it, and the
model never sees it. What it returns is what the user said."""

_NAME_MAX_CHARS = 64


class ClientFunctions:
    """What a turn offers of its client, and which calls the model made."""

    def __init__(self, wanted: ClientTools | None, *, taken: Collection[str]) -> None:
        """`taken` are names that mean something else to the CLI. Blocks while the schema checker is
        loaded."""
        self._wanted = wanted
        sent = wanted.tools if wanted else ()
        tools = [tool for tool in sent if tool.name != ASKING]
        self.has_asking = len(tools) < len(sent)
        """Whether its user is asked by a call."""
        self._own_names = _renamed([tool.name for tool in tools], taken)
        self._client_names = {own: client for client, own in self._own_names.items()}
        self._accepted = 0
        self._wrong = 0
        self.offers: Sequence[Offer] = [self._offer(tool) for tool in tools]

    @property
    def needs_call(self) -> bool:
        """Whether the turn has to end with a call."""
        return self._wanted is not None and self._wanted.is_required and bool(self.offers)

    @property
    def is_one_at_a_time(self) -> bool:
        """Whether the turn may end with one call only."""
        return self._wanted is not None and not self._wanted.is_parallel

    @property
    def is_given_up(self) -> bool:
        """Whether the model made too many wrong calls."""
        return self._wrong >= WRONG_MAX

    @property
    def wish(self) -> str | None:
        """What is added to the prompt, because nothing else tells the model that it has to call."""
        if not self.needs_call:
            return None
        return f"[Finish this turn by calling {self._named}. Your turn ends with that call.]"

    @property
    def reminder(self) -> str:
        """What the model is told if it finished without a call."""
        return f"[You have called none of your user's functions. Call {self._named} now.]"

    @property
    def _named(self) -> str:
        names = [f"`{offer.name}`" for offer in self.offers]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"

    def told(self, calls: Iterable[OfferedCall]) -> list[ClientCall]:
        """The events for the open calls."""
        return [
            ClientCall(
                id=client_call_id(call.id),
                name=self._client_names[call.name],
                arguments=_written(call),
                is_legacy=self._wanted is not None and self._wanted.is_legacy,
            )
            for call in calls
        ]

    def asking(self, id: str, told: Mapping[str, Any]) -> ClientCall:
        """The event for the model's call of that id, by which its user is asked."""
        return ClientCall(
            id=client_call_id(id),
            name=ASKING,
            arguments=whole(json.dumps(told, ensure_ascii=False, separators=(",", ":"))),
            is_legacy=self._wanted is not None and self._wanted.is_legacy,
        )

    def known_as(self, history: Sequence[HistoryMessage]) -> tuple[HistoryMessage, ...]:
        """The history with the names that the model knows the functions by."""
        if all(client == own for client, own in self._own_names.items()):
            return tuple(history)
        return tuple(
            message.model_copy(update={"content": tuple(map(self._known_as, message.content))})
            for message in history
        )

    def _known_as(self, block: ContentBlock) -> ContentBlock:
        if isinstance(block, CallBlock):
            name = self._own_names.get(block.name, block.name)
            return block.model_copy(update={"name": name})
        return block

    def _offer(self, tool: ClientTool) -> Offer:
        check = _check(tool.parameters)
        return Offer(
            self._own_names[tool.name],
            tool.description,
            json.loads(tool.parameters),
            lambda call: self._judge(call, check),
        )

    def _judge(self, call: OfferedCall, check: Check) -> CallReply | None:
        assert self._wanted is not None
        if self._accepted and not self._wanted.is_parallel:
            return CallReply("One call at a time. Make this one after the result of the other.")
        if self._accepted >= CALLS_MAX:
            return CallReply(f"More than {CALLS_MAX} calls at a time. This one was not made.")
        if (fault := self._fault(call, check)) is None:
            self._accepted += 1
            return None
        self._wrong += 1
        text = f"The arguments do not match the function's schema: {fault}"
        # A result that is an error never ends a turn.
        return CallReply(text, is_error=not self.is_given_up, ends_turn=self.is_given_up)

    def _fault(self, call: OfferedCall, check: Check) -> str | None:
        if len(_written(call).encode()) > ARGUMENTS_MAX_BYTES:
            return f"they are larger than {ARGUMENTS_MAX_BYTES // 1024} KiB"
        return check(call.input)


def _check(schema: str) -> Check:
    load_left_out("jsonschema")
    from infra.wire.form.checks import FormCheck

    return FormCheck(AnswerForm(schema_text=schema)).fault_of


def _written(call: OfferedCall) -> str:
    return whole(json.dumps(call.input, ensure_ascii=False, separators=(",", ":")))


def _renamed(names: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """A name for each function that is neither taken nor another function's."""
    used = {*taken, *names}
    renamed: dict[str, str] = {}
    for name in names:
        own, number = name, 0
        while own.startswith(MCP_PREFIX) or own in taken or (own != name and own in used):
            number += 1
            mark = f"client{number if number > 1 else ''}_"
            own = mark + name[: _NAME_MAX_CHARS - len(mark)]
        used.add(own)
        renamed[name] = own
    return renamed
