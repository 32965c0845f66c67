"""What tools ask of the proxy, and what they must not sneak past it."""

from __future__ import annotations

import pytest

from worker.gateway.egress.request import BadProxyRequest, ProxyRequest, parse_request


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("example.org:443", "example.org", 443),
        ("EXAMPLE.org.:443", "example.org", 443),
        ("[2606:4700::1]:443", "2606:4700::1", 443),
        ("1.1.1.1:80", "1.1.1.1", 80),
    ],
)
def test_a_tunnel_is_a_host_and_a_port(target: str, host: str, port: int) -> None:
    head = f"CONNECT {target} HTTP/1.1\r\nHost: other\r\n\r\n".encode()
    assert parse_request(head) == ProxyRequest(host, port, is_tunnel=True)


def test_a_plain_request_becomes_the_servers_own() -> None:
    head = (
        b"POST http://example.org:8080/a/b?c=d HTTP/1.1\r\n"
        b"Host: victim.internal\r\n"
        b"Proxy-Authorization: Basic eA==\r\n"
        b"Connection: keep-alive\r\n"
        b"Content-Length: 3\r\n\r\n"
    )
    request = parse_request(head)
    assert (request.host, request.port, request.is_tunnel) == ("example.org", 8080, False)
    assert request.opening == (
        b"POST /a/b?c=d HTTP/1.1\r\n"
        b"Host: example.org:8080\r\n"
        b"Content-Length: 3\r\n"
        b"Connection: close\r\n\r\n"
    )


def test_a_bare_host_asks_for_the_root() -> None:
    request = parse_request(b"GET http://example.org HTTP/1.0\r\n\r\n")
    assert request.opening.startswith(b"GET / HTTP/1.1\r\nHost: example.org\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"GET https://example.org/ HTTP/1.1\r\n\r\n",
        b"GET ftp://example.org/ HTTP/1.1\r\n\r\n",
        b"CONNECT example.org HTTP/1.1\r\n\r\n",
        b"CONNECT example.org:99999 HTTP/1.1\r\n\r\n",
        b"CONNECT user@example.org:443 HTTP/1.1\r\n\r\n",
        b"CONNECT [fe80::1%25eth0]:80 HTTP/1.1\r\n\r\n",
        b"CONNECT exa\x00mple.org:443 HTTP/1.1\r\n\r\n",
        b"CONNECT exam$ple.org:443 HTTP/1.1\r\n\r\n",
        b"GET http://a@b:80@example.org/ HTTP/1.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
        b"GET http://example.org/ HTTP/2\r\n\r\n",
        b"GET http://example.org/ HTTP/1.1\r\nbroken\r\n\r\n",
        b"GET http://example.org/ HTTP/1.1\r\nA: b\nHost: victim\r\n\r\n",
        b"GET http://example.org/ HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"GET http://example.org/\tx HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
    ],
)
def test_anything_else_is_refused(head: bytes) -> None:
    with pytest.raises(BadProxyRequest):
        parse_request(head)
