"""What of a request is refused before anything starts, and in which words."""

from __future__ import annotations

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.chat.messages.prompt import read_messages
from api.chat.request import read_chat_request
from api.http.auth import authenticate, without_key
from api.http.edge import meant_path
from api.turns.naming import conversation_name, label, resends_history
from infra.wire.errors import ErrorCode, RequestRefused

SECRET = b"s" * 32
GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def name_of(
    headers: dict[str, str], *names: str, metadata: dict[str, object] | None = None
) -> str | None:
    return conversation_name(headers, metadata, names=names or ("x-conversation-id",), max_chars=16)


@pytest.mark.parametrize("value", ["", "  ", "{{LIBRECHAT_BODY_CONVERSATIONID}}", "${CHAT}"])
def test_empty_name_and_unfilled_placeholder_mean_no_name(value: str) -> None:
    assert name_of({"x-conversation-id": value}) is None


@pytest.mark.parametrize("field", ["authorization", "x-api-key"])
def test_what_a_caller_wrote_is_shown_without_the_key(field: str) -> None:
    key = "no-pattern/of+a=key"
    headers = {field: f"Bearer {key}" if field == "authorization" else key}
    assert without_key(f"/v1/{key}/x", headers) == "/v1/[key]/x"
    assert without_key("/v1/models", headers) == "/v1/models"
    assert "sk-ant" not in without_key("of another: sk-ant-api03-abcdef", headers)


def test_a_header_that_cannot_be_a_key_hides_nothing() -> None:
    assert (
        without_key("/v1/models", {"authorization": "Bearer v1", "x-api-key": ""}) == "/v1/models"
    )


def test_a_name_with_a_key_in_it_is_refused_for_it_would_be_kept() -> None:
    key = "0123456789ab"
    with pytest.raises(RequestRefused, match="holds an API key") as refused:
        name_of({"x-conversation-id": f"c-{key}", "x-api-key": key})
    assert key not in refused.value.message


def test_first_header_with_a_value_names_the_conversation() -> None:
    headers = {"a": "", "b": " thread-1 ", "c": "other"}
    assert name_of(headers, "a", "b", "c") == "thread-1"


@pytest.mark.parametrize("value", ["x" * 17, "naïve", "a\x01b"])
def test_absurd_names_are_refused(value: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        name_of({"x-conversation-id": value})
    assert refused.value.param == "x-conversation-id"
    assert refused.value.code is ErrorCode.INVALID_REQUEST


def test_metadata_names_the_conversation_where_no_header_does() -> None:
    metadata: dict[str, object] = {"conversation_id": " thread-2 "}
    assert name_of({}, metadata=metadata) == "thread-2"
    assert name_of({"x-conversation-id": "a"}, metadata=metadata) == "a"
    assert name_of({}, metadata={"conversation_id": "{{CHAT_ID}}"}) is None
    assert name_of({}, metadata={"conversation_id": None}) is None
    with pytest.raises(RequestRefused) as refused:
        name_of({}, metadata={"conversation_id": 7})
    assert refused.value.param == "metadata.conversation_id"


def test_name_with_a_placeholder_in_it_is_no_name() -> None:
    """Else all chats of a deployment would be the one conversation `chat-{{ID}}`."""
    assert name_of({"x-conversation-id": "chat-{{ID}}"}) is None


@pytest.mark.parametrize(
    ("headers", "resends"),
    [
        ({}, False),
        ({"x-parent-message-id": ""}, False),
        ({"x-parent-message-id": "{{PARENT}}"}, False),
        ({"x-parent-message-id": "p"}, True),
        ({"x-openwebui-chat-id": "c"}, True),
    ],
)
def test_some_clients_are_known_to_send_their_history(
    headers: dict[str, str], resends: bool
) -> None:
    assert resends_history(headers) is resends


def test_label_is_harmless_to_show() -> None:
    assert label("a b\n<c>/" + "x" * 100) == "a_b__c__" + "x" * 56
    assert label(None) == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sk-ant-12345678"},
        {"authorization": "bearer  sk-ant-12345678 "},
        {"x-api-key": "sk-ant-12345678"},
        {"authorization": "Basic abc", "x-api-key": "sk-ant-12345678"},
    ],
)
def test_key_comes_as_bearer_or_api_key(headers: dict[str, str]) -> None:
    caller = authenticate(headers, secret=SECRET)
    assert caller.api_key == "sk-ant-12345678"
    assert "sk-ant" not in repr(caller)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer "}, {"authorization": "x"}])
def test_missing_key_is_401(headers: dict[str, str]) -> None:
    with pytest.raises(RequestRefused) as refused:
        authenticate(headers, secret=SECRET)
    assert refused.value.code is ErrorCode.MISSING_KEY


@pytest.mark.parametrize("key", ["short", "x" * 513, "has a space", "ümläut-key", "tab\tkey-123"])
def test_malformed_key_is_401_and_not_repeated(key: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        authenticate({"x-api-key": key}, secret=SECRET)
    assert refused.value.code is ErrorCode.INVALID_KEY
    assert key not in refused.value.message


def test_same_key_is_the_same_tenant_either_way() -> None:
    a = authenticate({"x-api-key": "sk-ant-12345678"}, secret=SECRET)
    b = authenticate({"authorization": "Bearer sk-ant-12345678"}, secret=SECRET)
    assert a.tenant == b.tenant


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "name": 5}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant", "tool_calls": [5]}]}, "messages[0].tool_calls[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"metadata": []}, "metadata"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"response_format": "json"}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stop": 5}, "stop"),
        ({"tools": {}}, "tools"),
        ({"user": 5}, "user"),
    ],
)
def test_bad_field_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_chat_request(json.dumps(GOOD | change).encode())
    assert refused.value.param == param
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert param in refused.value.message


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_field_is_said_to_be_required(missing: str) -> None:
    body = {k: v for k, v in GOOD.items() if k != missing}
    with pytest.raises(RequestRefused, match="required") as refused:
        read_chat_request(json.dumps(body).encode())
    assert refused.value.param == missing


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"nonsense", b"[1]", b'"x"', b"null"])
def test_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_chat_request(body)
    assert refused.value.param is None
    assert "JSON" in refused.value.message


@pytest.mark.parametrize(
    "extra",
    [
        {"temperature": 1},
        {"temperature": 0.3, "top_p": None, "seed": 7, "max_tokens": 100.0},
        {"stop": ["a"], "logit_bias": {"5": 1}, "user": "u", "n": 1},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
        {"whatever_comes_next": {"deep": [1]}},
        {"stream_options": {"include_usage": True, "include_obfuscation": False}},
    ],
)
def test_parameters_without_effect_and_unknown_ones_are_accepted(extra: dict[str, Any]) -> None:
    assert read_chat_request(json.dumps(GOOD | extra).encode()).model == "m"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (rb"cut \ud83d here", "cut \ufffd here"),
        (rb"cut \uDE00 here", "cut \ufffd here"),
        (rb"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (rb"\ud83d\ude00\ude00", "\U0001f600\ufffd"),
        (rb"ends \ud83d", "ends \ufffd"),
        (rb"\\ud83d and \\\ud83d", "\\ud83d and \\\ufffd"),
        (rb"\n\ud83d\n", "\n\ufffd\n"),
        (b"cut \xed\xa0\xbd here", "cut \ufffd here"),
        (rb"whole \ud83d\ude00", "whole \U0001f600"),
    ],
)
def test_half_an_emoji_becomes_the_sign_for_what_is_lost(sent: bytes, read: str) -> None:
    """A client that cut a text in the middle of one resends it, and got 400 for ever."""
    for content in (b'"%b"' % sent, b'[{"type":"text","text":"%b"}]' % sent):
        body = b'{"model":"m","user":"%b","messages":[{"role":"user","content":%b}]}'
        chat = read_chat_request(body % (sent, content))
        assert chat.user == read
        assert chat.messages[0].first_text == read


def test_byte_order_mark_is_no_part_of_a_body() -> None:
    assert read_chat_request(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()).model == "m"


NOUGHTS = b",".join([b"{}"] * 1_000_000)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":[%b]}]}' % NOUGHTS[:299_999],
        b'{"model":"m","messages":[{"role":"assistant","tool_calls":[%b]}]}' % NOUGHTS[:299_999],
        b'{"model":"m","messages":[{"role":"user"}],"tools":[%b]}' % NOUGHTS,
        b'{"model":"m","messages":[{"role":"user"}],"unknown":%b1%b}' % (b"[" * 9999, b"]" * 9999),
        b'{"model":"m","messages":[%b]}' % b",".join([b'{"role":"user"}'] * 5000),
    ],
    ids=["parts", "calls", "tools", "depth", "messages"],
)
def test_body_that_would_be_millions_of_objects_is_refused_before_it_is_some(body: bytes) -> None:
    """31 MB of `{}` became a gigabyte, and stayed one while the answer streamed."""
    tracemalloc.start()
    try:
        with pytest.raises(RequestRefused):
            read_messages(read_chat_request(body).messages)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


def a_history(*counts: int) -> bytes:
    """A body whose messages have so many parts each."""
    part = b'{"type":"text","text":"x"}'
    turns = [b'{"role":"user","content":[%b]}' % b",".join([part] * count) for count in counts]
    return b'{"model":"m","messages":[%b]}' % b",".join(turns)


def test_a_request_of_many_parts_is_read_whole_whoever_else_asked_before() -> None:
    """Parts were counted by thread, and only another request's first step began anew: the third
    of such requests lost its history, or was refused."""
    one, other = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    with one, other:
        for _ in range(4):
            chat = one.submit(read_chat_request, a_history(6000, 1)).result()
            prompt = other.submit(read_messages, chat.messages).result()
            assert len(prompt.prompt) == 6001
            assert "Left out" not in str(prompt)


def test_two_requests_read_in_turns_are_counted_each_for_itself() -> None:
    chats = [read_chat_request(a_history(15_000)) for _ in range(2)]
    firsts = [chat.messages[0].first_text for chat in chats]
    prompts = [read_messages(chat.messages) for chat in chats]
    assert firsts == ["x", "x"]
    assert [len(prompt.prompt) for prompt in prompts] == [15_000, 15_000]


def test_too_many_parts_are_refused_wherever_they_stand() -> None:
    """Beyond the bound, what a history said was left out, and the newest message refused."""
    for counts in ((16_384, 1), (1, 16_384), (8_191, 8_192)):
        chat = read_chat_request(a_history(*counts))
        with pytest.raises(RequestRefused, match="16,384") as refused:
            read_messages(chat.messages)
        assert refused.value.param == "messages"
    most = read_messages(read_chat_request(a_history(8_191, 8_191)).messages)
    assert len(most.prompt) == 16_382


def test_calls_and_parts_are_counted_together() -> None:
    call = b'{"function":{"name":"f"}}'
    calls = b'{"role":"assistant","tool_calls":[%b]}' % b",".join([call] * 8_000)
    asked = b'{"model":"m","messages":[%b,{"role":"user","content":[%b]}]}'
    text = b'{"type":"text","text":"x"}'
    fits = read_chat_request(asked % (calls, b",".join([text] * 382)))
    assert len(read_messages(fits.messages).prompt) == 382
    with pytest.raises(RequestRefused, match="together"):
        read_messages(read_chat_request(asked % (calls, b",".join([text] * 383))).messages)


def test_fields_without_effect_are_not_built() -> None:
    tools = b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[%b]}'
    body = tools % NOUGHTS[: 3 * 600_000 - 1]
    tracemalloc.start()
    try:
        read_chat_request(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/models", "/v1/models"),
        ("/models", "/models"),
        ("//v1/models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1//models", "/v1/models"),
        ("/v1/v1//v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("///", "/"),
        ("/", "/"),
        ("/v1/", "/v1"),
        ("/v1", "/v1"),
        ("/v1/models/v1/x", "/v1/models/v1/x"),
        ("/v1beta/models", "/v1beta/models"),
    ],
)
def test_path_is_served_as_base_urls_make_it(path: str, meant: str) -> None:
    assert meant_path(path, path.encode()) == meant


def test_slash_in_a_name_stays() -> None:
    assert meant_path("/v1/sessions/a/", b"/v1/sessions/a%2F") == "/v1/sessions/a/"


KEY = "sk-ant-in-the-wrong-place"


def _file_of(media_type: str) -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": f"data:{media_type};base64,aGk="}}


@pytest.mark.parametrize("media_type", [KEY, f"{KEY}/x"])
def test_a_media_type_of_another_form_is_not_kept(media_type: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [_file_of(media_type)]}]}
    prompt = read_messages(read_chat_request(json.dumps(body).encode()).messages).prompt
    assert KEY not in str(prompt)


@pytest.mark.parametrize(
    "field",
    [
        {"messages": KEY},
        {"messages": [{"role": KEY, "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": KEY}]}]},
        {"temperature": KEY},
        {"stream": KEY},
        {"stream_options": {"include_usage": KEY}},
        {"logit_bias": {KEY: KEY}},
        {"n": KEY},
        {"stop": {KEY: KEY}},
    ],
)
def test_what_stands_in_the_wrong_place_is_not_told_again(field: dict[str, Any]) -> None:
    """A client may have put its key there."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **field}
    with pytest.raises(RequestRefused) as refused:
        read_messages(read_chat_request(json.dumps(body).encode()).messages)
    assert KEY not in str(refused.value)
    assert KEY not in str(refused.value.param)
