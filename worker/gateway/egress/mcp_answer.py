"""What of an MCP server's answer reaches an agent. Pure.

A server is the operator's choice, but what it answers may be anybody's words. Its answer is passed
on with the headers that the protocol needs, and no others: no cookies, and nothing that would lead
the agent to another address.
"""

from __future__ import annotations

import re

ANSWER_MAX_BYTES = 64 * 1024 * 1024
"""Largest answer; the agent holds it in memory."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([2-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_PASSED = frozenset(
    {
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"mcp-protocol-version",
        b"mcp-session-id",
        b"retry-after",
        b"transfer-encoding",
    }
)


class McpAnswerRefused(Exception):
    """An answer that is not passed on. `detail` is for the log only."""

    def __init__(self, message: str, *, detail: str) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


def status_of(head: bytes) -> int:
    """The status of an answer's head, with which it is passed on. Raises `McpAnswerRefused`."""
    first = head.partition(b"\r\n")[0]
    if (found := _STATUS.fullmatch(first)) is None:
        raise McpAnswerRefused("the MCP server does not speak HTTP", detail="not a status line")
    status = int(found[1])
    if 300 <= status < 400:
        # An agent would follow it: to another of its servers, with that one's secret.
        raise McpAnswerRefused("the MCP server leads elsewhere", detail=f"redirect {status}")
    return status


def passed_on(head: bytes) -> bytes:
    """The head of an answer as the agent gets it; `head` includes the blank line.

    Raises `McpAnswerRefused`.
    """
    status = status_of(head)
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    kept = [line for line in lines if _is_passed(line)]
    return b"\r\n".join([f"HTTP/1.1 {status} MCP".encode(), *kept, b"Connection: close", b"", b""])


def _is_passed(line: bytes) -> bool:
    found = _HEADER.fullmatch(line)
    if found is None:
        raise McpAnswerRefused("the MCP server does not speak HTTP", detail="a malformed header")
    return found[1].lower() in _PASSED
