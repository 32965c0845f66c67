"""A tool's request to the HTTP proxy: a tunnel, or one plain request. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from infra.wire.errors import AgClusterError

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) ([\x21-\x7e]{1,8192}) HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\x20-\x7e\x80-\xff\t]*)")
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DROPPED = {b"host", b"connection", b"keep-alive", b"te", b"upgrade", b"http2-settings"}


class BadProxyRequest(AgClusterError):
    """Not a request that a proxy can serve; the message says why."""


@dataclass(frozen=True)
class ProxyRequest:
    """Where to connect, and what to send there first (nothing for a tunnel)."""

    host: str
    port: int
    is_tunnel: bool
    opening: bytes = b""
    method: str = "CONNECT"
    path: str = ""
    headers: tuple[bytes, ...] = ()
    """The header lines of a plain request, without those that concern the connection."""


def parse_request(head: bytes) -> ProxyRequest:
    """Parse a request's head, including the blank line. Raises `BadProxyRequest`."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None:
        raise BadProxyRequest("not an HTTP/1.1 request")
    method, target = found[1].decode(), found[2].decode()
    if method == "CONNECT":
        host, port = _authority(_split(f"//{target}"), port=None)
        return ProxyRequest(host, port, is_tunnel=True)
    parts = _split(target)
    if parts.scheme != "http":
        raise BadProxyRequest("this is a proxy: use CONNECT for https, an absolute URL for http")
    host, port = _authority(parts, port=80)
    headers = _headers(lines)
    target = _target(parts)
    return ProxyRequest(
        host,
        port,
        is_tunnel=False,
        opening=opening(method, target, authority_of(host, port, usual=80), headers),
        method=method,
        path=target,
        headers=headers,
    )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise BadProxyRequest("not a URL") from error


def _authority(parts: SplitResult, *, port: int | None) -> tuple[str, int]:
    try:
        given, host = parts.port, parts.hostname
    except ValueError as error:
        raise BadProxyRequest("not a port") from error
    port = given or port
    if not host or port is None or "@" in parts.netloc:
        raise BadProxyRequest("a host and a port are needed, and nothing else")
    if not is_host(host):
        raise BadProxyRequest("not a host name")
    return host.removesuffix("."), port


def is_host(host: str) -> bool:
    """Whether it is a name or an address that can be resolved and logged as it is.

    Resolvers accept numbers in many forms (octal, hexadecimal, one number for all four); only the
    usual form of an address is accepted.
    """
    if len(host) > 253:
        return False
    if ":" not in host and _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        return _is_ipv4(host)
    if _HOST_NAME.fullmatch(host):
        return True
    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def authority_of(host: str, port: int, *, usual: int) -> str:
    """A URL's host and port as its server expects them."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port == usual else f"{shown}:{port}"


def opening(method: str, target: str, authority: str, headers: Iterable[bytes]) -> bytes:
    """The request in the form its server expects: origin-form, the URL's own host, one request
    only."""
    head = [f"{method} {target} HTTP/1.1".encode(), f"Host: {authority}".encode(), *headers]
    return b"\r\n".join([*head, b"Connection: close", b"", b""])


def _target(parts: SplitResult) -> str:
    path = parts.path or "/"
    return f"{path}?{parts.query}" if parts.query else path


def _headers(lines: Iterable[bytes]) -> tuple[bytes, ...]:
    kept = []
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise BadProxyRequest("a header line is malformed")
        name = found[1].lower()
        if name not in _DROPPED and not name.startswith(b"proxy-"):
            kept.append(line)
    return tuple(kept)
