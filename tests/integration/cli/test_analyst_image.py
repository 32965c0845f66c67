"""The data analyst's image has what its prompt promises, under the bounds of a sandbox."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from infra.scripted_model.demo.agents.analysis_program import ANALYSIS, SALES
from infra.scripted_model.demo.pythons import find_python
from tests.parts import ANALYST_IMAGE, need

pytestmark = pytest.mark.docker

BOUNDS = (
    *("--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--memory=1g", "--pids-limit=256", "--tmpfs=/tmp", "--tmpfs=/home/agent:uid=1000"),
)


def test_its_python_comes_first_and_makes_plots_and_workbooks(tmp_path: Path) -> None:
    need("analyst_image")
    tmp_path.chmod(0o777)
    (tmp_path / "sales.csv").write_text(SALES)
    (tmp_path / "analysis.py").write_text(ANALYSIS)
    script = (
        f'set -e; {find_python("pandas, matplotlib, pyarrow, scipy, openpyxl")}; echo "$py"; '
        "python3 analysis.py; id -u; cat outputs/revenue.png | head -c 4; "
        "head -c 2 outputs/revenue.xlsx; rm -r outputs"
    )
    done = subprocess.run(
        ["docker", "run", "--rm", *BOUNDS, f"--volume={tmp_path}:/workspace",
         "--entrypoint=bash", ANALYST_IMAGE, "-c", script],
        capture_output=True, timeout=50, check=False,
    )  # fmt: skip
    said = done.stdout.decode("latin-1")
    assert done.returncode == 0, done.stderr
    assert said.startswith("/opt/analyst/bin/python3\n")
    assert "made with pandas" in said
    assert said.endswith("1000\n\x89PNGPK")
