"""What an MCP server is sent of an agent's request."""

from __future__ import annotations

import pytest

from infra.wire.agents.mcp import McpServer
from infra.wire.mcp.logins import McpLogin
from worker.gateway.egress.mcp import McpRefused, McpSecrets, is_mcp, request_to
from worker.gateway.egress.request import parse_request
from worker.gateway.keys import LoginTokens

SERVERS = {
    "github": McpServer(
        url="https://mcp.example.com:8443/mcp/?toolset=all",
        headers={"Authorization": "Bearer ${TOKEN}", "X-Team": "blue"},
    ),
    "plain": McpServer(url="http://10.0.0.7/mcp"),
    "personal": McpServer(
        url="https://mcp.example.com/",
        headers={"Authorization": "Bearer ${caller:MY_TOKEN}", "X-Key": "${TOKEN}"},
    ),
    "unset": McpServer(url="http://10.0.0.7/mcp", headers={"X-Key": "${NOBODY}"}),
}
LOGIN = McpLogin(
    url="https://notes.example.com/",
    access_token="t0ken",
    token_endpoint="https://login.example.com/token",
    client_id="c",
)
SECRETS = McpSecrets('{"TOKEN": "s3cret"}')


def head(
    name: str = "github", method: str = "POST", path: str = "/", *lines: str, port: str = ""
) -> bytes:
    first = f"{method} http://{name}.mcp.internal{port}{path} HTTP/1.1"
    return "\r\n".join((first, *(lines or ("Content-Length: 5",)), "", "")).encode()


def test_the_servers_address_and_secrets_are_added_outside() -> None:
    request = parse_request(
        head(
            "github",
            "POST",
            "/",
            "Content-Length: 5",
            "Accept: application/json, text/event-stream",
            "Authorization: Bearer mine",
            "x-team: red",
            "Cookie: a=b",
            "Mcp-Session-Id: 77",
            "Connection: keep-alive",
        )
    )
    assert is_mcp(request)
    asked = request_to(request, SERVERS, SECRETS, {})
    assert (asked.host, asked.port, asked.is_tls) == ("mcp.example.com", 8443, True)
    assert asked.body_bytes == 5
    assert asked.head.decode().split("\r\n") == [
        "POST /mcp/?toolset=all HTTP/1.1",
        "Host: mcp.example.com:8443",
        "Content-Length: 5",
        "Accept: application/json, text/event-stream",
        "Mcp-Session-Id: 77",
        "Authorization: Bearer s3cret",
        "X-Team: blue",
        "Connection: close",
        "",
        "",
    ]


def test_a_server_on_a_private_network_is_an_operators_choice() -> None:
    asked = request_to(parse_request(head("plain")), SERVERS, SECRETS, {})
    assert (asked.host, asked.port, asked.is_tls) == ("10.0.0.7", 80, False)
    assert asked.head.startswith(b"POST /mcp HTTP/1.1\r\nHost: 10.0.0.7\r\n")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head("another"), 404),
        (head("github", "POST", "/.well-known/oauth-protected-resource"), 404),
        (head("github", "POST", "/?toolset=none"), 404),
        (head("github", "POST", "//"), 404),
        (head("github", "GET"), 405),
        (head("github", "PUT"), 405),
        (head("github", port=":8080"), 400),
        (b"CONNECT github.mcp.internal:443 HTTP/1.1\r\n\r\n", 400),
        (head("github", "POST", "/", "Accept: */*"), 411),
        (head("github", "POST", "/", "Transfer-Encoding: chunked"), 411),
        (head("github", "POST", "/", "Content-Length: 5", "Transfer-Encoding: chunked"), 411),
        (head("github", "POST", "/", "Content-Length: 5", "Content-Length: 6"), 411),
        (head("github", "POST", "/", "Content-Length: -1"), 411),
        (head("github", "POST", "/", "Content-Length: 99999999"), 413),
        (head("unset"), 502),
    ],
)
def test_anything_else_is_refused(request_head: bytes, status: int) -> None:
    with pytest.raises(McpRefused) as refused:
        request_to(parse_request(request_head), SERVERS, SECRETS, {})
    assert refused.value.status == status
    assert "s3cret" not in f"{refused.value} {refused.value.detail}"
    assert "example.com" not in refused.value.message


def test_the_end_of_a_session_has_no_body() -> None:
    asked = request_to(
        parse_request(head("github", "DELETE", "/", "Mcp-Session-Id: 7")), SERVERS, SECRETS, {}
    )
    assert asked.body_bytes == 0


@pytest.mark.parametrize("told", ["[]", "{", '{"A": 1}', '{"A": "b\\r\\nX: y"}', '{"A": "ü"}'])
def test_secrets_are_names_and_texts_of_one_line(told: str) -> None:
    with pytest.raises(ValueError, match=r"JSON object|Expecting"):
        McpSecrets(told)


def personal(callers: dict[str, str]) -> list[str]:
    asked = request_to(parse_request(head("personal")), SERVERS, SECRETS, callers)
    return asked.head.decode().split("\r\n")


def test_a_callers_secret_stands_where_the_profile_says() -> None:
    sent = personal({"MY_TOKEN": "theirs", "TOKEN": "not asked for"})
    assert "Authorization: Bearer theirs" in sent
    assert "X-Key: s3cret" in sent


def test_what_a_caller_sends_leads_to_no_secret_of_the_operators() -> None:
    assert "Authorization: Bearer ${TOKEN}" in personal({"MY_TOKEN": "${TOKEN}"})


def test_without_its_callers_secret_a_server_is_not_asked() -> None:
    with pytest.raises(McpRefused) as refused:
        personal({"TOKEN": "another"})
    assert refused.value.status == 502


def test_the_token_of_a_login_goes_to_the_server_it_was_made_at() -> None:
    servers = {"notes": McpServer(url="https://notes.example.com/", login=True)}
    tokens = LoginTokens({"notes": LOGIN})
    request = parse_request(head("notes", "POST", "/", "Content-Length: 5", "Authorization: mine"))
    asked = request_to(request, servers, SECRETS, {}, tokens.of)
    assert b"Authorization: Bearer t0ken\r\n" in asked.head
    assert b"mine" not in asked.head
    elsewhere = {"notes": McpServer(url="https://other.example.com/", login=True)}
    for told, known in ((elsewhere, tokens), (servers, LoginTokens())):
        with pytest.raises(McpRefused) as refused:
            request_to(request, told, SECRETS, {}, known.of)
        assert refused.value.status == 401
    tokens.wipe()
    assert tokens.of("notes", LOGIN.url) is None
