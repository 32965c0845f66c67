"""The programs of `docs/examples`, run as their readers would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.deployments import GOOD_KEY, Deployment

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "examples"
TIMEOUT_S = 90.0

TRIP = 'json {"city":"Rome","days":3}'
WEATHER = 'tool get_weather {"city":"Rome"} then echo It is nice.'
MAKE = "tool bash mkdir -p outputs && echo made-4711 > outputs/table.csv then echo Here it is."
COUNT = "stream 300 deltas every 5 ms of 4 chars plain"
COUNTED = "".join(f"{n:x>3} " for n in range(300)) + "\n"
"""What that prints: no number missing, none twice."""
SLOWLY = "stream 500 deltas every 50 ms of 3 chars plain"
READ = "tool bash cat uploads/table.csv"


def run_example(
    deployment: Deployment,
    command: Sequence[str],
    name: str,
    *arguments: str,
    folder: Path = FOLDER,
) -> str:
    """What an example prints. It has to end well."""
    environ = {"OPENAI_BASE_URL": f"{deployment.base_url}/v1", "OPENAI_API_KEY": GOOD_KEY}
    # In a shell script the prompt is a part of JSON.
    given = [json.dumps(one)[1:-1] if name.endswith(".sh") else one for one in arguments]
    done = subprocess.run(
        [*command, str(folder / name), *given],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PYTHON = (sys.executable,)
SHELL = ("sh",)
