"""The content blocks of a model call: listed kinds are allowed, all others refused.

A tool may be defined in a message as well as in the list of tools (`tool_addition`), and a block
type without a date may be one that the service acts on. So the kinds are listed: those of a
conversation with our tools. The arguments and descriptions of tools are free text and not checked.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from infra.wire.text.foreign import foreign
from worker.gateway.model.refusals import CallRefused

_SEARCHES_OF_TOOLS = frozenset({"tool_search_tool_regex", "tool_search_tool_bm25"})
"""They search the request's own tools. The service accepts them without a date, too."""
DATED_TOOLS = _SEARCHES_OF_TOOLS | {
    "web_search",  # Only if agents have that tool. The agent's own client carries out the next one.
    "bash",
    "text_editor",
    "memory",
}
_OPEN_TOOL = re.compile(
    rf"custom|{'|'.join(_SEARCHES_OF_TOOLS)}|(?:{'|'.join(DATED_TOOLS)})_20[0-9]{{6}}"
)
"""A tool's type, if it has one; a tool without a type is the agent's own."""

OPEN_BLOCKS = frozenset(
    {
        "compaction",
        "connector_text",
        "document",
        "fallback",  # A remark in the history. The field that causes a fallback is refused.
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
        # The source of a picture or a document; URLs and files are refused elsewhere.
        "base64",
        "content",
    }
)


class _Type:
    """A tool's type. The decoder's hook is called for each occurrence."""


class _Kind:
    """A block's type, likewise."""


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
    """Raises `CallRefused` for a tool whose type is not listed, whatever its name."""
    _decode(body, _Tools, _TypedTools, "The tools are not a list of tools.")


def refuse_blocks(body: bytes) -> None:
    """Raises `CallRefused` for a block whose type is not listed, and for a tool inside one."""
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
        # A tool in a message may refer to one that the list of tools defines.
        if value == "tool_reference" or _OPEN_TOOL.fullmatch(value):
            return _TYPE
        message = f"The tool type {foreign(value, max_chars=60)} is not open to agents."
    raise CallRefused(403, "permission_error", message)
