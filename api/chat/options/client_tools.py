"""Reads the client's functions: `tools`, `tool_choice`, `parallel_tool_calls`, and the older
`functions` and `function_call`. Pure.

Some chat programs send functions of their own with every turn, whatever the user wants, and would
run what an agent does better itself. `means_its_tools` tells whether a client is one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from api.chat.options.schemas import check_schema
from api.chat.request import ChatRequest, given
from api.turns.naming import is_given
from api.turns.options import CLIENT_TOOLS_HEADER
from infra.runtime.settings import ClientToolsUse
from infra.wire.errors import RequestRefused
from infra.wire.options import ClientTool, ClientTools

TOOLS_MAX = 128
"""OpenAI's limit."""
TOOLS_MAX_BYTES = 256 * 1024
"""`tools` as they are sent."""
CHOICE_MAX_BYTES = 16 * 1024

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OPEN_WEBUI = "x-openwebui-"
_OPEN_WEBUI_AGENT = re.compile(r"Python/\S+ aiohttp/\S+")

Json = dict[str, Any]


def means_its_tools(headers: Mapping[str, str], use: ClientToolsUse) -> bool:
    """Whether the agent may call what the client sends as its tools.

    `use` is the deployment's word, or the agent's; the header's is stronger. If nobody has decided:
    not those of Open WebUI, which is known by its headers, or by how its HTTP library names itself.
    Raises `RequestRefused`.
    """
    said = headers.get(CLIENT_TOOLS_HEADER, "").strip().lower()
    if is_given(said):
        if said not in ("on", "off"):
            raise RequestRefused(
                f"The header {CLIENT_TOOLS_HEADER} must be `on` or `off`.",
                param=CLIENT_TOOLS_HEADER,
            )
        return said == "on"
    if use is not ClientToolsUse.AUTO:
        return use is ClientToolsUse.ON
    is_open_webui = any(name.lower().startswith(_OPEN_WEBUI) for name in headers)
    return not (is_open_webui or _OPEN_WEBUI_AGENT.fullmatch(headers.get("user-agent", "")))


def read_client_tools(chat: ChatRequest) -> ClientTools | None:
    """What the client offers in this turn; None for nothing. Raises `RequestRefused`, naming the
    place."""
    tools, is_legacy = _tools(chat), False
    choice, field = _choice(chat.tool_choice, "tool_choice"), "tool_choice"
    functions = _functions(chat)
    if functions and tools:
        raise _wrong("functions", "cannot be sent together with `tools`: send `tools` only")
    if functions:
        tools, is_legacy = functions, True
        choice, field = _choice(chat.function_call, "function_call"), "function_call"
    offered, is_required = _chosen(tools, choice, field, is_legacy=is_legacy)
    if not offered:
        return None
    return ClientTools(
        tools=tuple(offered),
        is_required=is_required,
        is_parallel=not is_legacy and chat.parallel_tool_calls is not False,
        is_legacy=is_legacy,
    )


def _tools(chat: ChatRequest) -> list[ClientTool]:
    read: list[ClientTool] = []
    for i, told in enumerate(_list_of(chat.tools, "tools")):
        where = f"tools[{i}]"
        if not isinstance(told, dict):
            raise _wrong(where, "must be an object")
        if told.get("type") != "function":
            raise _wrong(
                f"{where}.type", "must be `function`: no other tools of a client are called"
            )
        read.append(_function(told.get("function"), f"{where}.function", read))
    return read


def _functions(chat: ChatRequest) -> list[ClientTool]:
    read: list[ClientTool] = []
    for i, told in enumerate(_list_of(chat.functions, "functions")):
        read.append(_function(told, f"functions[{i}]", read))
    return read


def _list_of(value: Any, field: str) -> Sequence[Any]:
    told = _parsed(value, field, TOOLS_MAX_BYTES)
    if told is None:
        return ()
    if not isinstance(told, list):
        raise _wrong(field, "must be an array")
    if len(told) > TOOLS_MAX:
        raise _wrong(field, f"has more than {TOOLS_MAX} entries")
    return told


def _function(told: object, where: str, before: Sequence[ClientTool]) -> ClientTool:
    if not isinstance(told, dict):
        raise _wrong(where, "must be an object")
    name, description = told.get("name"), told.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(f"{where}.name", "must be 1 to 64 letters, digits, `_` and `-`")
    if any(tool.name == name for tool in before):
        raise _wrong(f"{where}.name", "is the name of another function too")
    if description is not None and not isinstance(description, str):
        raise _wrong(f"{where}.description", "must be a string")
    strict = told.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise _wrong(f"{where}.strict", "must be true or false")
    schema = _schema(told.get("parameters"), f"{where}.parameters", is_strict=bool(strict))
    return ClientTool(name=name, description=description or "", parameters=schema)


def _schema(told: object, where: str, *, is_strict: bool) -> str:
    if told is None:
        told = {}
    if not isinstance(told, dict):
        raise _wrong(where, "must be an object")
    if "type" not in told and "$ref" not in told:
        # A function without arguments, as many clients write it.
        told = {"type": "object", **told}
    if told == {"type": "object"}:
        told["properties"] = {}
    checked = check_schema(told, where, is_strict=is_strict and bool(told["properties"]))
    return json.dumps(checked, separators=(",", ":"))


# Which of them may, or have to, be called


def _choice(value: Any, field: str) -> str | Json | None:
    told = _parsed(value, field, CHOICE_MAX_BYTES)
    if told is None or isinstance(told, str | dict):
        return told
    raise _wrong(field, "must be a string or an object")


def _chosen(
    tools: Sequence[ClientTool], choice: str | Json | None, field: str, *, is_legacy: bool
) -> tuple[Sequence[ClientTool], bool]:
    """The tools that are offered, and whether one of them has to be called."""
    match choice:
        case None | "auto":
            return tools, False
        case "none":
            return (), False
        case "required" if not is_legacy:
            if not tools:
                raise _wrong(field, "asks for a call, but there are no `tools`")
            return tools, True
        case {"name": str() as name} if is_legacy:
            return _named([name], tools, f"{field}.name"), True
        case {"type": "function", "function": {"name": str() as name}} if not is_legacy:
            return _named([name], tools, f"{field}.function.name"), True
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list() as listed}}:
            where = f"{field}.allowed_tools"
            if mode not in ("auto", "required"):
                raise _wrong(f"{where}.mode", "must be `auto` or `required`")
            names = [_name_in(told, f"{where}.tools[{i}]") for i, told in enumerate(listed)]
            return _named(names, tools, f"{where}.tools"), mode == "required"
        case _:
            words = "`none`, `auto`" if is_legacy else "`none`, `auto`, `required`"
            raise _wrong(field, f"must be {words} or name a function")


def _name_in(told: object, where: str) -> str:
    match told:
        case {"type": "function", "function": {"name": str() as name}}:
            return name
        case _:
            raise _wrong(where, "must name a function")


def _named(names: Sequence[str], tools: Sequence[ClientTool], where: str) -> Sequence[ClientTool]:
    known = {tool.name for tool in tools}
    if not known.issuperset(names) or not names:
        raise _wrong(where, "names no function of this request")
    return [tool for tool in tools if tool.name in names]


def _parsed(value: Any, field: str, max_bytes: int) -> Any:
    raw = given(value)
    if raw is None:
        return None
    if len(memoryview(raw)) > max_bytes:
        raise _wrong(field, f"is larger than {max_bytes // 1024} KiB")
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise _wrong(field, "cannot be read: it is nested too deeply, or no JSON") from None


def _wrong(field: str, what: str) -> RequestRefused:
    return RequestRefused(f"`{field}` {what}.", param=field)
