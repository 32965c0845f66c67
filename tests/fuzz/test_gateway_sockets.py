"""A real gateway's three kinds of sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.runtime.settings import EgressPolicy
from infra.wire.gateway import OpenSession
from infra.wire.ids import Fence
from infra.wire.socket_folder import EGRESS_SOCKET, MODEL_SOCKET
from tests.fakes.scripted_model import RunningModel
from tests.fuzz.mutations import IS_LONG, exchanged, fuzz, request
from tests.integration.gateway.conftest import (
    CONVERSATION,
    KEY,
    TURN,
    Host,
    HostMaker,
    asking,
)
from worker.gateway.egress.addresses import IPAddress
from worker.gateway.egress.proxy import EgressRules
from worker.gateway.main import Outside
from worker.gateway.model.proxy import ModelLimits

pytestmark = pytest.mark.timeout(0 if IS_LONG else 120)

ASKED = json.dumps(asking("echo hi", stream=False)).encode()
CALLS = [
    request("POST /v1/messages?beta=true", ASKED),
    request("POST /v1/messages/count_tokens", ASKED),
    request("GET /api/hello"),
    b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(ASKED), ASKED),
]


def no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    faults = [r for r in caplog.records if r.levelno >= logging.ERROR or r.exc_info]
    assert faults == []


async def test_the_model_socket(
    make_host: HostMaker, model: RunningModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing goes upstream but the two calls, with the caller's key, and for a model that is
    open."""
    host = make_host(
        upstream_url=model.url,
        model_limits=ModelLimits(calls_per_minute=0, models=frozenset({"claude-test"})),
    )
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn(lasts_s=86_400)
        await asyncio.to_thread(
            fuzz, CALLS, lambda raw: _no_answer(exchanged(folder / MODEL_SOCKET, raw), b" 500 ")
        )
        told = await asyncio.to_thread(exchanged, folder / MODEL_SOCKET, CALLS[0])
        await host.close_turn()
    assert told.startswith(b"HTTP/1.1 200")
    for entry in model.journal.entries:
        assert entry.path in ("/v1/messages", "/v1/messages/count_tokens")
        assert entry.headers["x-api-key"] == KEY
    no_fault_of_ours(caplog)


async def test_the_egress_socket(make_host: HostMaker, caplog: pytest.LogCaptureFixture) -> None:
    """No spelling of a request gets a connection where every address is refused."""

    class Inside:
        async def resolve(self, host: str) -> Sequence[IPAddress]:
            raise OSError("unknown")

    around = Outside(resolver=Inside(), why_refused=lambda address: "of a test")
    host = make_host(egress=EgressRules(EgressPolicy.PUBLIC), surroundings=around)
    seeds = [
        b"CONNECT site.example:443 HTTP/1.1\r\nHost: site.example:443\r\n\r\n",
        b"GET http://127.0.0.1:80/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"CONNECT [::ffff:10.0.0.1]:443 HTTP/1.1\r\n\r\n",
    ]
    async with host.gateway():
        folder = await host.open_session()
        await host.open_turn(lasts_s=86_400)
        await asyncio.to_thread(
            fuzz, seeds, lambda raw: _no_answer(exchanged(folder / EGRESS_SOCKET, raw), b" 200 ")
        )
        await host.close_turn()
    no_fault_of_ours(caplog)


UPGRADED = (
    b"GET /turns HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    # A masked frame of two bytes.
    b"\x82\x82\0\0\0\0{}"
)


async def test_the_control_socket(
    host: Host, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A taken-over worker's: it gets no 500, makes nothing outside the data folder, and the gateway
    serves on."""
    session = OpenSession(socket_dir=str(host.folder()), fence=Fence(1)).encode()
    folder = await host.open_session()
    turn = (await host.open_turn()).encode()
    seeds = [
        request(f"PUT /sessions/{CONVERSATION}", session),
        request(f"PUT /sessions/{CONVERSATION}/turn", turn),
        request(f"DELETE /sessions/{CONVERSATION}/turn/{TURN}?fence=1"),
        request(f"POST /sessions/{CONVERSATION}/complete", b"{}"),
        request("GET /turns"),
        UPGRADED,
        request("GET /meters"),
        request("GET /health"),
    ]
    control, around = host.config.control_socket, set(data_dir.parent.iterdir())
    await asyncio.to_thread(fuzz, seeds, lambda raw: _no_answer(exchanged(control, raw), b" 500 "))
    assert (await asyncio.to_thread(exchanged, control, seeds[-1])).startswith(b"HTTP/1.1 200")
    made = {path for path in set(data_dir.parent.iterdir()) - around if path.is_socket()}
    assert made == set()
    assert folder.exists()
    no_fault_of_ours(caplog)


def _no_answer(told: bytes, status: bytes) -> None:
    assert status not in told[:16], told[:500]
