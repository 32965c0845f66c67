"""The bench runs and its answers are whole; what the figures are is nobody's business here."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.e2e.deployments import ROOT
from tests.parts import need

RUN_WITHIN_S = 110

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]


async def output_of(*command: str) -> str:
    need("redis")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(RUN_WITHIN_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-3000:]
    return output.decode()


async def test_bench_measures_the_cluster_beside_the_direct_stream() -> None:
    output = await output_of("tests.bench.first_delta", "--quick", "--only", "stand-in")
    for row in ("| model asked directly", "| AgCluster, stand-in agent", "| per delta, 10 streams"):
        assert row in output


async def test_bench_measures_what_a_conversation_takes_in_redis() -> None:
    output = await output_of("tests.bench.redis_bytes", "--count", "20")
    for row in ("| an idle conversation", "| an ended turn", "| 1000 events"):
        assert row in output
