"""What stands in the messages of a model call: kinds of blocks that are open, and none that is not.

A tool may be defined in a message as well as among the tools (`tool_addition`), and an undated
kind of block may be one that the service acts on. So the kinds are listed: what a conversation with
the tools of ours consists of. What a tool is called with, and what it describes, is anybody's words
and not looked at.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from infra.wire.foreign import foreign
from worker.gateway.model.refusals import CallRefused

_SEARCHES_OF_TOOLS = frozenset({"tool_search_tool_regex", "tool_search_tool_bm25"})
"""They look through the tools of the request itself. The service knows them without a date, too."""
DATED_TOOLS = _SEARCHES_OF_TOOLS | {
    "web_search",  # Where agents have that tool; the agent's own client carries out the next.
    "bash",
    "text_editor",
    "memory",
}
_OPEN_TOOL = re.compile(
    rf"custom|{'|'.join(_SEARCHES_OF_TOOLS)}|(?:{'|'.join(DATED_TOOLS)})_20[0-9]{{6}}"
)
"""A tool's type, where it has one: without it, it is the agent's own."""

OPEN_BLOCKS = frozenset(
    {
        "compaction",
        "connector_text",
        "document",
        "fallback",  # A remark in the history; what would make the service fall back is closed.
        "image",
        "mid_conv_system",
        "redacted_thinking",
        "search_result",
        "server_tool_use",
        "text",
        "thinking",
        "tool_addition",
        "tool_reference",
        "tool_removal",
        "tool_result",
        "tool_search_tool_result",
        "tool_search_tool_result_error",
        "tool_search_tool_search_result",
        "tool_use",
        "web_search_result",
        "web_search_tool_result",
        "web_search_tool_result_error",
        # Where a picture or a document comes from; addresses and files are refused elsewhere.
        "base64",
        "content",
    }
)


class _Type:
    """A tool's type, told to the decoder's hook each time it stands there."""


class _Kind:
    """A block's, likewise."""


_TYPE, _KIND = _Type(), _Kind()


class _Tool(msgspec.Struct, gc=False):
    type: str | None = None


class _Tools(msgspec.Struct):
    tools: list[_Tool] | None = None


class _TypedTool(msgspec.Struct, gc=False):
    type: _Type | None = None


class _TypedTools(msgspec.Struct):
    tools: list[_TypedTool] | None = None


class _Block(msgspec.Struct, gc=False):
    type: str | None = None
    content: list[_Block] | _Block | str | None = None
    source: _Block | str | None = None
    tool: _Tool | None = None
    tools: list[_Tool] | None = None


class _Message(msgspec.Struct, gc=False):
    content: list[_Block] | str | None = None
    tools: list[_Tool] | None = None


class _Messages(msgspec.Struct):
    messages: list[_Message | str] | None = None
    system: list[_Block] | str | None = None


class _TypedBlock(msgspec.Struct, gc=False):
    type: _Kind | None = None
    content: list[_TypedBlock] | _TypedBlock | str | None = None
    source: _TypedBlock | str | None = None
    tool: _TypedTool | None = None
    tools: list[_TypedTool] | None = None


class _TypedMessage(msgspec.Struct, gc=False):
    content: list[_TypedBlock] | str | None = None
    tools: list[_TypedTool] | None = None


class _TypedMessages(msgspec.Struct):
    messages: list[_TypedMessage | str] | None = None
    system: list[_TypedBlock] | str | None = None


def refuse_tools(body: bytes) -> None:
    """Raises `CallRefused` for a tool of a type that is not listed, whatever it is called."""
    _decode(body, _Tools, _TypedTools, "The tools are not a list of tools.")


def refuse_blocks(body: bytes) -> None:
    """Raises `CallRefused` for a block of a kind that is not listed, and for a tool in one."""
    _decode(body, _Messages, _TypedMessages, "The messages are not lists of blocks.")


def _decode(body: bytes, plain: type, typed: type, wrong: str) -> None:
    try:
        msgspec.json.decode(body, type=plain)
        # Only now, as the hook is given its values as objects: they are strings, all of them.
        msgspec.json.decode(body, type=typed, dec_hook=_open)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CallRefused(400, "invalid_request_error", wrong) from error


def _open(kind: type, value: Any) -> _Type | _Kind:
    if kind is _Kind:
        if value in OPEN_BLOCKS:
            return _KIND
        message = f"The block type {foreign(value, max_chars=60)} is not open to agents."
    else:
        # In a message a tool may be one that is defined among the tools.
        if value == "tool_reference" or _OPEN_TOOL.fullmatch(value):
            return _TYPE
        message = f"The tool type {foreign(value, max_chars=60)} is not open to agents."
    raise CallRefused(403, "permission_error", message)
