"""The metrics of a whole cluster on one machine, after an answer."""

from __future__ import annotations

import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.cli.up.command import METRICS_ORDER
from tests.integration.cli.up_process import Start, ask, wait

pytestmark = [pytest.mark.bwrap, pytest.mark.redis, pytest.mark.sdk, pytest.mark.timeout(240)]

EXPECTED: dict[str, dict[str, float]] = {
    "api": {
        'agcluster_http_requests_total{method="POST",route="/v1/chat/completions",status="200"}': 1,
        'agcluster_answers_total{ending="complete"}': 1,
        'agcluster_redis_scripts_total{script="submit"}': 1,
    },
    "worker": {
        'agcluster_turns_total{lane="agent",state="done"}': 1,
        'agcluster_turn_wait_seconds_count{lane="agent"}': 1,
        'agcluster_worker_conversations{state="idle"}': 1,
        "agcluster_engine_trusted": 1,
    },
    "gateway": {"agcluster_gateway_sessions": 1},
    "exporter": {
        "agcluster_cluster_up": 1,
        'agcluster_cluster_workers{state="ready"}': 1,
        "agcluster_cluster_api_replicas": 1,
        "agcluster_cluster_hosts": 1,
        "agcluster_redis_last_write_ok": 1,
    },
}


def free_ports(count: int) -> int:
    """The first of that many ports in a row that nobody listens on."""
    for first in range(29464, 40000, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    pytest.fail("no ports are free")


def shown_at(port: int) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    return {
        sample.name
        + (
            "{" + ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items())) + "}"
            if sample.labels
            else ""
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_program_shows_what_it_did_for_an_answer(start: Start) -> None:
    first = free_ports(len(METRICS_ORDER))
    up = start("--demo", AGCLUSTER_METRICS_PORT=str(first))
    up.wait_ready()
    assert ask(up, "What can you do?").status_code == 200, up.said()

    for place, program in enumerate(METRICS_ORDER):
        port, expected = first + place, EXPECTED[program]

        def has_all(port: int = port, expected: dict[str, float] = expected) -> bool:
            shown = shown_at(port)
            return {name: shown.get(name) for name in expected} == expected

        wait(f"{expected} of {program}: {shown_at(port)}", has_all, timeout_s=20)

    gateway = shown_at(first + METRICS_ORDER.index("gateway"))
    assert gateway['agcluster_model_calls_total{status="2xx"}'] >= 1
    assert gateway['agcluster_model_tokens_total{kind="input"}'] > 0
