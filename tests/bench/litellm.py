"""LiteLLM's proxy, where somebody has it: one worker, no database, no callbacks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.not_here import NotHere
from tests.bench.processes import started
from tests.e2e.deployments import GOOD_KEY, MODEL, free_port

KEY = "sk-bench"
START_S = 120.0
INSTALL_S = 1200.0


@contextmanager
def litellm(model_url: str, program: str | None, folder: Path) -> Iterator[tuple[str, int]]:
    """Its address and process. Raises `NotHere`."""
    if not program:
        raise NotHere("no `litellm` on PATH; pass --litellm or --install-litellm")
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        f"  - model_name: {MODEL}\n"
        "    litellm_params:\n"
        f"      model: anthropic/{MODEL}\n"
        f"      api_base: {model_url}\n"
        f"      api_key: {GOOD_KEY}\n"
        f"general_settings:\n  master_key: {KEY}\n"
    )
    command = [program, "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with started(
        [*command, "--num_workers", "1"],
        log=folder / "litellm.log",
        environ={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        ready_url=f"http://127.0.0.1:{port}/health/liveliness",
        ready_within_s=START_S,
    ) as process:
        yield f"http://127.0.0.1:{port}", process.pid


def find_litellm(program: str | None, install_in: Path | None) -> str | None:
    """The program given, the one installed in that folder (now, if need be), or that on PATH."""
    if program or not install_in:
        return program or shutil.which("litellm")
    installed = install_in / "bin" / "litellm"
    if not installed.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(install_in)], check=True, timeout=120)
            pip = [str(install_in / "bin" / "pip"), "install", "-q", "litellm[proxy]"]
            subprocess.run(pip, check=True, timeout=INSTALL_S)
        except (subprocess.SubprocessError, OSError) as error:
            print(f"litellm[proxy] could not be installed: {error}")
            return None
    return str(installed)
