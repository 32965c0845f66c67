"""Every family keeps Prometheus' rules and our own, and is shown by anybody who asks for it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator

import httpx
import pytest
from prometheus_client import Counter, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from infra.metrics import api, gateway, serve
from infra.metrics.api import count_request
from infra.metrics.families import registry
from infra.reference.metrics import PARTS, families, page, shown_name
from infra.runtime.settings import load_settings
from infra.wire.events import Usage
from infra.wire.gateway import UpstreamError
from tests.parts import need

FROM_OUTSIDE = {"route", "method", "status", "script", "phase"}
"""Labels whose series come when they are needed. Each has as many values as our code has routes,
statuses, scripts or phases."""


def all_families() -> Iterator[MetricWrapperBase]:
    for name, _ in PARTS:
        yield from families(f"infra.metrics.{name}")


def value(family: MetricWrapperBase, **labels: str) -> float:
    found = registry.get_sample_value(shown_name(family), labels)
    return found or 0.0


@pytest.mark.parametrize("family", list(all_families()), ids=shown_name)
def test_a_family_has_our_prefix_a_text_and_bounded_labels(family: MetricWrapperBase) -> None:
    assert shown_name(family).startswith("agcluster_")
    assert family._documentation.endswith(".")
    open_labels = set(family._labelnames) & FROM_OUTSIDE
    begun = len(next(iter(family.collect())).samples)
    assert open_labels or begun, "all its series exist from the start"


@pytest.mark.promtool
def test_promtool_finds_nothing_to_say() -> None:
    need("promtool")
    assert list(all_families()), "they are imported"
    checked = subprocess.run(
        [shutil.which("promtool") or "", "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        check=False,
        timeout=30,
    )
    told = [line for line in checked.stderr.decode().splitlines() if "agcluster_" in line]
    assert told == []


def test_the_page_names_every_family_once() -> None:
    for family in all_families():
        assert page().count(f"`{shown_name(family)}` (") == 1


def test_a_path_that_a_caller_made_up_makes_no_series() -> None:
    before = value(api.REQUESTS, route="other", method="other", status="404")
    for made_up in ("BREW", "'; DROP"):
        count_request(route=None, method=made_up, status=404, after_s=0.1)
    assert value(api.REQUESTS, route="other", method="other", status="404") == before + 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UpstreamError(status=429, kind="rate_limit_error"), "rate_limited"),
        (UpstreamError(status=529, kind="overloaded_error"), "overloaded"),
        (UpstreamError(status=401, kind="authentication_error"), "authentication"),
        (UpstreamError(status=400, kind="invalid_request_error"), "refused"),
        (UpstreamError(status=500, kind=None), "failed"),
        (UpstreamError(status=502, kind="stream_broken"), "broken"),
    ],
)
def test_an_error_of_the_models_service_is_counted_by_kind(error: UpstreamError, kind: str) -> None:
    before = value(gateway.UPSTREAM_ERRORS, kind=kind)
    gateway.count_answer(status=error.status, usage=Usage(input_tokens=3), error=error)
    assert value(gateway.UPSTREAM_ERRORS, kind=kind) == before + 1


async def until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 - the log has no event to wait for
        await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def fetch(port: int, accept: str = "") -> httpx.Response:
    async with httpx.AsyncClient() as client:
        while True:
            try:
                return await client.get(
                    f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept}
                )
            except httpx.ConnectError:
                await asyncio.sleep(0.02)


async def test_a_port_shows_what_was_counted_after_a_look() -> None:
    settings = load_settings({"AGCLUSTER_METRICS_PORT": str(free_port())}, env_file=None)
    looks: list[int] = []
    async with asyncio.TaskGroup() as group:
        showing = group.create_task(serve.show_metrics(settings, look=lambda: looks.append(1)))
        shown = await fetch(settings.metrics_port)
        other = await fetch(settings.metrics_port, accept="application/openmetrics-text")
        showing.cancel()
    assert looks == [1, 1]
    assert "agcluster_http_open_requests" in shown.text
    assert other.text.endswith("# EOF\n")
    assert "_created{" not in shown.text


async def test_a_taken_port_is_tried_again_until_it_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve, "RETRY_S", 0.01)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    settings = load_settings({"AGCLUSTER_METRICS_PORT": str(port)}, env_file=None)
    async with asyncio.TaskGroup() as group:
        showing = group.create_task(serve.show_metrics(settings))
        await until(lambda: bool(caplog.records))
        taken.close()
        assert (await fetch(port)).status_code == 200
        showing.cancel()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "metrics cannot listen; trying on"
    ]


async def test_without_a_port_nothing_listens_and_nothing_ends() -> None:
    async with asyncio.TaskGroup() as group:
        showing = group.create_task(serve.show_metrics(load_settings({}, env_file=None)))
        done, _ = await asyncio.wait({showing}, timeout=0.05)
        assert not done
        showing.cancel()


def test_counters_are_monotonic_names() -> None:
    counters = [family for family in all_families() if isinstance(family, Counter)]
    assert all(shown_name(family).endswith("_total") for family in counters)
