"""A bench that is killed leaves nothing running."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.e2e.deployments import ROOT, wait_until

BENCH = """
import asyncio, sys
from pathlib import Path
from tests.bench.ending import end_in_order
from tests.bench.processes import started

async def measure():
    idle = [sys.executable, "-c", "import time; time.sleep(60)"]
    with started(idle, log=Path(os.devnull)) as one:
        print(one.pid, flush=True)
        await asyncio.sleep(60)

end_in_order()
asyncio.run(measure())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, which only Linux has")
def test_a_bench_that_is_killed_stops_what_it_has_started() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"import os\n{BENCH}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as bench:
        assert bench.stdout
        child = int(bench.stdout.readline())
        bench.terminate()
        assert bench.wait(30) != 0
    wait_until("the end of its child", lambda: not os.path.exists(f"/proc/{child}"), 10)
