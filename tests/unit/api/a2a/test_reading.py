"""What is read of a call: its names, its shape, its parts."""

from __future__ import annotations

from typing import Any

import pytest
from a2a.types import SendMessageRequest

from api.a2a.body import DEPTH_MAX, VALUES_MAX, read_json, read_message
from api.a2a.errors import ProtocolRefusal, failure_of
from api.a2a.names import context_name, new_context, task_id, turn_of
from api.a2a.parts import own_file
from infra.wire.errors import ErrorCode, RequestRefused, TurnNotFound
from infra.wire.ids import TenantId, TurnId

TURN = TurnId("turn_" + "a" * 32)
FILE = "file-" + "0" * 32


def test_a_task_has_the_digits_of_its_first_turn() -> None:
    assert turn_of(task_id(TURN)) == turn_of(TURN) == TURN


@pytest.mark.parametrize("id", ["", "task-1", f"chatcmpl-{'a' * 32}", f"task-{'a' * 32}\n"])
def test_no_other_id_is_a_task(id: str) -> None:
    with pytest.raises(TurnNotFound):
        turn_of(id)


@pytest.mark.parametrize("name", ["", "a b", "local:x", "ä", "x" * 65, "a/b", "a\n"])
def test_a_context_is_a_name_that_can_be_shown(name: str) -> None:
    with pytest.raises(RequestRefused):
        context_name(name)


def test_a_new_context_is_anothers_for_another_tenant_agent_or_message() -> None:
    mine = TenantId("0" * 20), TenantId("1" * 20)
    made = {
        new_context(tenant, agent=agent, digest=digest)
        for tenant in mine
        for agent in ("a", "b")
        for digest in (b"1", b"2")
    }
    assert len(made) == 8
    assert all(context_name(name) == name for name in made)


@pytest.mark.parametrize(
    ("url", "id"),
    [
        (FILE, FILE),
        (f"/v1/files/{FILE}", FILE),
        (f"http://here/v1/files/{FILE}/content", FILE),
        (f"http://there/v1/files/{FILE}/content", None),
        (f"http://here/v1/files/{FILE}/other", None),
        (f"{FILE}\n", None),
        ("https://example.org", None),
    ],
)
def test_a_callers_own_file_is_known_by_its_address(url: str, id: str | None) -> None:
    assert own_file(url, base_url="http://here") == id


def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"0" + b"}" * depth


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b",".join([b"0"] * (2 * VALUES_MAX)) + b"]}",
        b'{"a":[' + b",".join([b"[]"] * VALUES_MAX) + b"]}",
        _nested(DEPTH_MAX + 1),
    ],
)
def test_a_body_of_a_costly_shape_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefused, match="more than"):
        read_json(body)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"5", _nested(100_000)])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolRefusal):
        read_json(body)


@pytest.mark.parametrize(
    "told",
    [
        {"message": 5},
        {"message": {"parts": 5}},
        {"message": {"parts": [{"text": 5}]}},
        {"message": {"parts": [{"text": "a", "raw": "YQ=="}]}},
        {"message": {"role": {}}},
        {"message": {"parts": [{"text": "\ud800"}]}},
        {"configuration": {"historyLength": "sk-ant-a-key-in-the-wrong-field"}},
    ],
)
def test_what_has_another_form_is_refused_without_being_quoted(told: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="form that A2A") as refused:
        read_message(told, SendMessageRequest())
    assert "sk-ant" not in refused.value.message


def test_every_code_has_an_error() -> None:
    for code in ErrorCode:
        failure = failure_of(RequestRefused("", code=code))
        assert failure.message
        assert 400 <= failure.status < 600
        assert failure.number < -30_000
