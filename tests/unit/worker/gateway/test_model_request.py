"""What an agent may ask of the model, judged by the bytes of its request."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from infra.runtime.settings import Settings
from infra.wire.events import Usage
from worker.gateway.main import config_from
from worker.gateway.model.blocks import OPEN_BLOCKS, refuse_blocks, refuse_tools
from worker.gateway.model.refusals import CallRefused
from worker.gateway.model.request import (
    OPEN_FIELDS,
    PIECE_BYTES,
    estimated_cost,
    judge,
    model_of,
    refuse_costs,
    refuse_fetches,
)

URL = {"type": "url", "url": "https://evil.example/?what=I+found"}
ANY: frozenset[str] = frozenset()
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def said(*blocks: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    "asked",
    [
        said({"type": "image", "source": URL}),
        said({"type": "document", "source": dict(reversed(URL.items()))}),
        said({"type": "tool_result", "content": [{"type": "image", "source": URL}]}),
        {**said(), "tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", " :\n\t")])
def test_the_models_service_follows_no_url_of_an_agents(
    asked: dict[str, Any], separators: tuple[str, str]
) -> None:
    """Whatever program runs in a container reaches the model's socket: what left out `WebFetch`, or
    had the policy `none`, could still be told to the world in an address."""
    with pytest.raises(CallRefused) as refused:
        refuse_fetches(json.dumps(asked, separators=separators).encode(), is_search_open=True)
    assert refused.value.status == 403


def test_the_models_service_searches_only_where_agents_have_that_tool() -> None:
    asked = json.dumps({**said(), "tools": [SEARCH]}).encode()
    refuse_fetches(asked, is_search_open=True)
    with pytest.raises(CallRefused):
        refuse_fetches(asked, is_search_open=False)
    for tools, is_open in (("Bash,WebSearch", True), ("Bash,WebFetch", False)):
        settings = Settings.model_validate({"secret": "s" * 32, "tools": tools})
        assert config_from(settings).model_limits.is_search_open is is_open


@pytest.mark.parametrize("hidden", [b'"typ\\u0065"', b'"\\u0074ype"', b'"\\u0054ype"'])
def test_letters_are_not_hidden_in_escapes(hidden: bytes) -> None:
    with pytest.raises(CallRefused):
        refuse_fetches(b"{" + hidden + b':"url"}', is_search_open=True)


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"url"}',
        '"type": "web_fetch_20250910"',
        r'"type":"url" and \"type\":\"url\"',
        r"\u0041 \\u0041",
        "\u0000\u001f\u007f\u00e4\u2028 ☺ \\",
    ],
)
def test_a_text_may_say_anything(text: str) -> None:
    asked = said({"type": "text", "text": text}, {"type": "web_search_tool_result", "content": []})
    for form in (json.dumps(asked), json.dumps(asked, ensure_ascii=False)):
        refuse_fetches(form.encode(), is_search_open=False)


def test_an_estimate_counts_text_and_the_answer_a_call_allowed() -> None:
    text = json.dumps({"model": "m", "messages": "x" * 4000, "max_tokens": 500}).encode()
    assert estimated_cost(text) == Usage(input_tokens=len(text) // 4, output_tokens=500)
    streamed = text[:-1] + b', "stream": true}'
    assert estimated_cost(streamed).output_tokens == 0


@pytest.mark.parametrize("bound", ["1000000000", "null", '"many"'])
def test_an_estimate_of_an_answer_is_bounded(bound: str) -> None:
    body = f'{{"model": "m", "max_tokens": {bound}}}'.encode()
    assert estimated_cost(body).output_tokens == 21_333


def test_an_estimate_does_not_read_a_picture_as_text() -> None:
    picture = json.dumps({"source": {"type": "base64", "data": "A" * 100_000 + "=="}}).encode()
    assert 1_600 <= estimated_cost(picture).input_tokens < 1_700


@pytest.mark.parametrize(
    "field",
    ["container", "service_tier", "speed", "inference_geo", "fallbacks", "mcp_servers", "betas"],
)
def test_a_field_that_is_not_listed_is_refused(field: str) -> None:
    """What costs outside the budget of tokens, or reaches what the caller has at the service."""
    with pytest.raises(CallRefused) as refused:
        model_of(json.dumps(said() | {field: "x"}).encode())
    assert refused.value.status == 400


def test_the_fields_of_a_call_are_open() -> None:
    asked = {name: {"any": ["thing"]} for name in OPEN_FIELDS - {"mcp_servers"}} | {"model": "m"}
    assert model_of(json.dumps(asked).encode()) == "m"


@pytest.mark.parametrize("form", [(",", ":"), (", ", " :\r\n\t")])
@pytest.mark.parametrize(
    "part",
    [
        {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "dear"}]},
        {"tools": [{"type": "computer_20250124", "name": "computer"}]},
        {"tools": [{"type": "of_a_later_year_20310101", "name": "x"}]},
        {"tools": [{"type": "code_exec2_20260825", "name": "x"}]},
        {"tools": [{"type": "web_fetch2_20260101", "name": "x"}]},
        said({"type": "Code-Execution-20260825"}),
        {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]},
        said({"type": "container_upload", "file_id": "f"}),
        said({"type": "image", "source": {"type": "file", "file_id": "f"}}),
    ],
)
def test_tools_and_files_that_cost_outside_the_budget_are_refused(
    part: dict[str, Any], form: tuple[str, str]
) -> None:
    with pytest.raises(CallRefused) as refused:
        refuse_costs(json.dumps(said() | part, separators=form).encode())
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "tool",
    [
        '{"type":"mcp2_toolset"}',
        '{"type":"web_search"}',
        '{"type":"code_execution"}',
        '{"type":"clear_thinking_20251015"}',
        '{"type":"bash_20250124x"}',
        '{"type":""}',
        '{"type":"mcp2_toolset","type":"custom"}',
        '{"type":"custom","type":"mcp2_toolset"}',
    ],
)
def test_a_tool_of_a_type_that_is_not_listed_is_refused(tool: str) -> None:
    """A list of what is closed had holes: types with digits, types without a date."""
    body = f'{{"model":"m","tools":[{{"name":"Bash"}},{tool}]}}'
    for form in (body, body.replace("}]}", '}],"tools":[]}')):
        with pytest.raises(CallRefused, match="not open") as refused:
            judge(form.encode(), models=ANY, is_search_open=True)
        assert refused.value.status == 403


@pytest.mark.parametrize(
    "block",
    [
        # A tool may be defined in a message, too: the beta for it is one that the CLI asks for.
        {"type": "tool_addition", "tool": {"type": "code_execution", "name": "x"}},
        {"type": "tool_addition", "tool": {"type": "advisor", "name": "x", "model": "dear"}},
        {"type": "tool_addition", "tools": [{"type": "web_fetch", "name": "x"}]},
        {"type": "mid_conv_system", "content": [{"type": "mcp_tool_listing"}]},
        {"type": "code_execution"},
        {"type": "container_upload"},
        {"type": "mcp_tool_use"},
        {"type": "of_next_year"},
        {"type": "image", "source": {"type": "of_next_year"}},
        {"type": "tool_result", "content": {"type": "bash_code_execution_result"}},
        {"type": "document", "source": {"type": "content", "content": [{"type": "x"}]}},
    ],
    ids=json.dumps,
)
def test_a_block_of_a_type_that_is_not_listed_is_refused(block: dict[str, Any]) -> None:
    """What is not among the tools was judged by its date only."""
    deep: dict[str, Any] = {"type": "tool_result", "content": [{"type": "text"}, block]}
    bodies = [said(block), said({"type": "text"}, deep), {"model": "m", "system": [block]}]
    for body in map(json.dumps, bodies):
        # Named twice: whichever a reader believes.
        for form in (body, body[:-1] + ',"messages":[],"system":"x"}'):
            with pytest.raises(CallRefused, match="not open") as refused:
                judge(form.encode(), models=ANY, is_search_open=True)
            assert refused.value.status == 403


def test_tools_stand_in_no_other_place_of_a_message() -> None:
    message = {"role": "system", "tools": [{"type": "code_execution"}]}
    with pytest.raises(CallRefused, match="not open"):
        refuse_blocks(json.dumps({"model": "m", "messages": [message]}).encode())


def test_what_a_conversation_consists_of_is_open() -> None:
    """Whatever words a tool was called with."""
    called = {"type": "tool_use", "name": "x", "input": {"type": "advisor", "tool": {"type": "y"}}}
    added = {"type": "tool_addition", "tool": {"name": "x", "input_schema": {"type": "object"}}}
    named = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "x"}}
    found = {"type": "search_result", "source": "https://a.example", "content": [{"type": "text"}]}
    blocks = [{"type": name} for name in sorted(OPEN_BLOCKS)]
    asked = said(called, added, named, found, *blocks)
    asked["messages"] += [{"role": "user", "content": "plain"}, {"role": "assistant"}]
    refuse_blocks(json.dumps(asked | {"system": "words"}).encode())


@pytest.mark.parametrize("messages", ["7", "[7]", '[{"content":7}]', '[{"content":[[]]}]'])
def test_messages_are_lists_of_blocks(messages: str) -> None:
    deep = '[{"content":' + '[{"content":' * 3000 + "1" + "}]" * 3000 + "}]"
    for wrong in (messages, deep):
        with pytest.raises(CallRefused) as refused:
            refuse_blocks(f'{{"model":"m","messages":{wrong}}}'.encode())
        assert refused.value.status == 400


@pytest.mark.parametrize("tools", ['{"type":"x"}', "[7]", '[{"type":{"type":"custom"}}]'])
def test_tools_are_a_list_of_tools(tools: str) -> None:
    with pytest.raises(CallRefused) as refused:
        refuse_tools(f'{{"model":"m","tools":{tools}}}'.encode())
    assert refused.value.status == 400


def test_what_an_agents_own_client_carries_out_is_open() -> None:
    tools = [
        {"name": "Bash", "input_schema": {"type": "object", "properties": {"file_id": {}}}},
        {"type": "custom", "name": "x", "input_schema": {"type": "object"}},
        {"type": None, "name": "y", "input_schema": {"type": "object"}},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"},
        {"type": "tool_search_tool_bm25", "name": "tool_search_tool_bm25"},
        {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
        SEARCH,
    ]
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    text = 'a text may say "type":"code_execution_20250825" and "file_id":"x"'
    asked = said({"type": "text", "text": text}) | {"tools": tools, "context_management": edits}
    judge(json.dumps(asked).encode(), models=ANY, is_search_open=True)


FILLER = b'"a",' * (PIECE_BYTES // 2)
"""Several pieces of a body that is read piece by piece."""


def test_a_model_named_a_million_times_is_refused_at_the_second() -> None:
    """28 MB of it took the gateway a second of its loop each, for nothing."""
    named = b'{"max_tokens":1' + b',"model":"m"' * 40_000 + b"}"
    with pytest.raises(CallRefused):
        judge(named * 30, models=ANY, is_search_open=True)
    began = time.process_time()
    with pytest.raises(CallRefused, match="one model, once"):
        judge(named, models=ANY, is_search_open=True)
    assert time.process_time() - began < 0.5


def test_a_body_of_nothing_but_signs_is_not_read() -> None:
    body = b'{"model":"m","messages":[' + b"[]," * 1_200_000 + b"[]]}"
    with pytest.raises(CallRefused, match="brackets"):
        judge(body, models=ANY, is_search_open=True)


@pytest.mark.parametrize("before", range(0, 64, 7))
def test_what_is_looked_for_is_found_wherever_a_body_is_cut(before: int) -> None:
    url = json.dumps(URL).encode()
    body = b'{"model":"m","messages":[' + FILLER + b" " * before + url + b"," + FILLER + b'""]}'
    with pytest.raises(CallRefused, match="fetches nothing"):
        judge(body, models=ANY, is_search_open=True)
    harmless = body.replace(url, b'"x"')
    assert judge(harmless, models=ANY, is_search_open=True).model == "m"
    code = body.replace(url, b'{"type":"code_execution_20250825"}')
    with pytest.raises(CallRefused, match="code_execution"):
        judge(code, models=ANY, is_search_open=True)
    escaped = body.replace(url, rb'"\u0075rl"')
    with pytest.raises(CallRefused, match="escaped"):
        judge(escaped, models=ANY, is_search_open=True)


def test_estimate_of_a_large_body_counts_its_pictures_as_pictures() -> None:
    picture = b'{"type":"image","source":{"type":"base64","data":"%b"}}' % (b"A" * PIECE_BYTES)
    body = b'{"model":"m","stream":true,"messages":[' + b",".join([picture] * 4) + b"]}"
    judged = judge(body, models=ANY, is_search_open=True)
    assert judged.estimate == estimated_cost(body)
    assert judged.estimate.input_tokens < 4 * PIECE_BYTES // 50
    assert judged.digest != judge(body + b" ", models=ANY, is_search_open=True).digest
