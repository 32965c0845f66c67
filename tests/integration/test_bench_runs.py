"""The bench runs and its answers are whole; what the figures are is nobody's business here."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.e2e.deployments import ROOT
from tests.parts import need

RUN_WITHIN_S = 110

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]


async def output_of(*command: str, within_s: float = RUN_WITHIN_S) -> str:
    need("redis")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(within_s):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-3000:]
    return output.decode()


async def test_bench_measures_the_cluster_beside_the_direct_stream() -> None:
    output = await output_of("tests.bench", "--quick", "--only", "hot")
    for row in ("| model asked directly", "| AgCluster", "| tiny turns/s"):
        assert row in output
    assert "Not measured" not in output


@pytest.mark.soak
@pytest.mark.docker
@pytest.mark.bwrap
@pytest.mark.timeout(400)
async def test_a_quick_bench_measures_everything(tmp_path: Path) -> None:
    if os.environ.get("CI") != "true":
        pytest.skip("starts real agents for two minutes: set CI=true to run it, as .ci/run does")
    for part in ("docker", "bwrap", "sdk"):
        need(part)
    page, kept = tmp_path / "page.md", tmp_path / "run.json"
    places = ("marks", "plots", "bench")
    page.write_text("".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in places))
    output = await output_of(
        *("tests.bench", "--quick", "--save", str(kept), "--write", str(page)), within_s=380
    )
    assert "Not measured" not in output
    assert "| tiny turns/s" in page.read_text()
    figures = json.loads(kept.read_text())["figures"]
    assert {"cold_docker_s", "pooled_bubblewrap_s", "hibernated_mb", "burst_last_s"} <= set(figures)


async def test_bench_measures_what_a_conversation_takes_in_redis() -> None:
    output = await output_of("tests.bench.redis_bytes", "--count", "20")
    for row in ("| an idle conversation", "| an ended turn", "| 1000 events"):
        assert row in output
