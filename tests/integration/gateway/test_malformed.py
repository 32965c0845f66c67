"""An agent that speaks no HTTP on its model socket."""

from __future__ import annotations

import asyncio

import pytest

from infra.wire.socket_folder import MODEL_SOCKET
from tests.integration.gateway.conftest import PATIENCE_S, Host

JUNK = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"POST /v1/messages HTTP/9.9\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
    b"A" * 100_000 + b"\r\n\r\n",
]


async def test_what_is_no_http_is_answered_and_leaves_nothing_in_the_log(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """A traceback for each would fill the host's disk at an agent's pleasure."""
    folder = await host.open_session()
    caplog.clear()
    for junk in JUNK:
        reader, writer = await asyncio.open_unix_connection(folder / MODEL_SOCKET)
        writer.write(junk)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            told = await reader.read()
        writer.close()
        assert b" 200 " not in told[:20]
    assert [record.getMessage() for record in caplog.records] == []
