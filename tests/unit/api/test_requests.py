"""What of a request is refused before anything starts, and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.auth import authenticate, without_key
from api.models import IGNORED_PARAMETERS, ChatRequest, read_chat_request
from api.naming import conversation_name, label, resends_history
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


def test_every_typed_parameter_has_an_effect_or_is_listed_as_ignored() -> None:
    honoured = {"model", "messages", "stream", "stream_options", "n"}
    assert set(ChatRequest.model_fields) <= honoured | IGNORED_PARAMETERS
