"""What a client offers the agent is read, or refused at its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.chat.options.client_tools import (
    TOOLS_MAX,
    TOOLS_MAX_BYTES,
    means_its_tools,
    read_client_tools,
)
from api.chat.request import read_chat_request
from infra.runtime.settings import ClientToolsUse
from infra.wire.errors import RequestRefused
from infra.wire.options import ClientTools

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
STRICT = {**SCHEMA, "additionalProperties": False}


def tool(name: str = "a", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, **function}}


def read(**fields: Any) -> ClientTools | None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return read_client_tools(read_chat_request(json.dumps(body).encode()))


def names(offered: ClientTools | None) -> list[str]:
    return [one.name for one in offered.tools] if offered else []


def param_of(**fields: Any) -> str | None:
    with pytest.raises(RequestRefused) as error:
        read(**fields)
    assert error.value.param
    assert error.value.param in error.value.message
    return error.value.param


def test_functions_are_read_as_they_are() -> None:
    offered = read(tools=[tool(description="Tells.", strict=True, parameters=STRICT), tool("b")])
    assert offered is not None
    assert names(offered) == ["a", "b"]
    assert offered.tools[0].description == "Tells."
    assert json.loads(offered.tools[0].parameters) == STRICT
    assert (offered.is_required, offered.is_parallel, offered.is_legacy) == (False, True, False)


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}])
def test_a_function_without_arguments(parameters: Any) -> None:
    offered = read(tools=[tool(parameters=parameters)])
    assert offered is not None
    assert json.loads(offered.tools[0].parameters) == {"type": "object", "properties": {}}


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": None}, {"tool_choice": "auto"}])
def test_nothing_is_offered_without_tools(fields: dict[str, Any]) -> None:
    assert read(**fields) is None


@pytest.mark.parametrize(
    ("choice", "offered", "is_required"),
    [
        (None, ["a", "b"], False),
        ("auto", ["a", "b"], False),
        ("none", [], False),
        ("required", ["a", "b"], True),
        ({"type": "function", "function": {"name": "b"}}, ["b"], True),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "a"}}],
                },
            },
            ["a"],
            False,
        ),
    ],
)
def test_the_choice_decides_what_is_offered(
    choice: Any, offered: list[str], is_required: bool
) -> None:
    told = read(tools=[tool("a"), tool("b")], tool_choice=choice)
    assert names(told) == offered
    assert (told is not None and told.is_required) is is_required


def test_one_call_at_a_time() -> None:
    offered = read(tools=[tool()], parallel_tool_calls=False)
    assert offered is not None
    assert not offered.is_parallel


def test_the_older_form() -> None:
    function = {"name": "a", "description": "Tells.", "parameters": SCHEMA}
    offered = read(functions=[function], function_call={"name": "a"})
    assert offered is not None
    assert (offered.is_legacy, offered.is_parallel, offered.is_required) == (True, False, True)
    assert read(functions=[function], function_call="none") is None
    assert param_of(functions=[function], tools=[tool()]) == "functions"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": ["a"]}, "tools[0]"),
        ({"tools": [tool(), {"type": "custom", "custom": {"name": "b"}}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("x" * 65)]}, "tools[0].function.name"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name"),
        ({"tools": [tool(description=1)]}, "tools[0].function.description"),
        ({"tools": [tool(strict="yes")]}, "tools[0].function.strict"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [tool(parameters={"type": "array"})]}, "tools[0].function.parameters.type"),
        (
            {"tools": [tool(parameters={"type": "object", "properties": {"a": {"type": "no"}}})]},
            "tools[0].function.parameters.properties.a.type",
        ),
        (
            {"tools": [tool(strict=True)]},
            "tools[0].function.parameters.additionalProperties",
        ),
        (
            {"tools": [tool(parameters={"type": "object", "$ref": "https://example.org/x"})]},
            "tools[0].function.parameters.$ref",
        ),
        ({"tools": [tool(f"n{i}") for i in range(TOOLS_MAX + 1)]}, "tools"),
        ({"tools": [tool(description="x" * TOOLS_MAX_BYTES)]}, "tools"),
        ({"tools": [tool()], "tool_choice": "must"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "c"}}},
            "tool_choice.function.name",
        ),
        ({"functions": [{"parameters": {}}]}, "functions[0].name"),
    ],
)
def test_what_is_wrong_is_refused_at_its_place(fields: dict[str, Any], param: str) -> None:
    assert param_of(**fields) == param


def test_nesting_has_a_bound() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        schema = {"type": "object", "properties": {"a": schema}}
    assert str(param_of(tools=[tool(parameters=schema)])).startswith("tools[0].function.parameters")
    raw = b'{"model":"m","messages":[{"role":"user"}],"tools":' + b"[" * 5000 + b"]" * 5000 + b"}"
    with pytest.raises(RequestRefused):
        read_client_tools(read_chat_request(raw))


# Who means what it sends

OPEN_WEBUI = {"user-agent": "Python/3.11 aiohttp/3.13.0"}


@pytest.mark.parametrize(
    ("headers", "use", "means"),
    [
        ({}, ClientToolsUse.AUTO, True),
        ({"user-agent": "OpenAI/Python 3.54.0"}, ClientToolsUse.AUTO, True),
        ({"user-agent": "langchainjs-openai/1.0.0"}, ClientToolsUse.AUTO, True),
        (OPEN_WEBUI, ClientToolsUse.AUTO, False),
        ({"x-openwebui-chat-id": "c"}, ClientToolsUse.AUTO, False),
        ({"X-OpenWebUI-User-Id": "u"}, ClientToolsUse.AUTO, False),
        (OPEN_WEBUI, ClientToolsUse.ON, True),
        ({}, ClientToolsUse.OFF, False),
        ({"X-AgCluster-Client-Tools": "on"}, ClientToolsUse.OFF, True),
        ({"X-AgCluster-Client-Tools": "off"}, ClientToolsUse.ON, False),
        ({"X-AgCluster-Client-Tools": "{{nothing}}"}, ClientToolsUse.OFF, False),
    ],
)
def test_who_means_its_tools(headers: dict[str, str], use: ClientToolsUse, means: bool) -> None:
    assert means_its_tools(headers, use) is means


def test_another_word_in_the_header_is_refused() -> None:
    with pytest.raises(RequestRefused):
        means_its_tools({"X-AgCluster-Client-Tools": "maybe"}, ClientToolsUse.AUTO)
