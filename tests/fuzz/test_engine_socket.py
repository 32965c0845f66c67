"""The engine proxy's socket, as a taken-over worker has it."""

from __future__ import annotations

import asyncio
import json
import logging
import re

import pytest

from tests.fuzz.mutations import IS_LONG, exchanged, fuzz, request
from tests.unit.worker.engine_proxy.conftest import CONVERSATION, Line
from worker.hosts.docker.host import container_name

pytestmark = pytest.mark.timeout(0 if IS_LONG else 120)

OPEN = re.compile(
    r"(GET|POST|DELETE) (/v[0-9.]+)?/(info|events|containers/(json|create)"
    r"|containers/[^/:?]+(/(json|start|stop))?|images/.+/json|version|_ping)(\?.*)?"
)


async def test_the_engine_proxys_socket(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing reaches the engine but the few calls; a container that is made is exactly ours."""
    body, name = line.body(), container_name(line.rules.options.cluster, CONVERSATION)
    seeds = [
        request(f"POST /v1.41/containers/create?name={name}", json.dumps(body).encode()),
        request(f"POST /v1.41/containers/{name}/start"),
        request(f"DELETE /v1.41/containers/{name}?force=1"),
        request("GET /v1.41/containers/json?all=1"),
        request("GET /v1.41/info"),
        request("GET /_ping"),
    ]
    await asyncio.to_thread(fuzz, seeds, lambda raw: _no_fault(exchanged(line.socket, raw)))
    for method, path, sent in line.engine.calls:
        assert OPEN.fullmatch(f"{method} {path}"), (method, path)
        if "/containers/create" in path:
            made = json.loads(sent)
            assert (made["Image"], made["HostConfig"]) == (body["Image"], body["HostConfig"])
    assert [r for r in caplog.records if r.levelno >= logging.ERROR or r.exc_info] == []


def _no_fault(told: bytes) -> None:
    assert b" 500 " not in told[:16], told[:500]
