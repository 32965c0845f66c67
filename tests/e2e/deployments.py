"""Whole deployments for the end-to-end ring: everything between the client and the model is real.

`embedded` is `agcluster up` on this machine, with Docker or bubblewrap; `composed` is `docker
compose up`. The model is the scripted one, on loopback or in the composed network, so its log can
be asked what the upstream really saw.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai

from infra.cli.up.programs import python_command
from tests.parts import AGENT_IMAGE

ROOT = Path(__file__).resolve().parents[2]
GOOD_KEY = "sk-ant-e2e-good-canary-5d0f2c7b9e4a"
WRONG_KEY = "sk-ant-wrong-canary-77aa"
MODEL = "claude-sonnet-4-5-20250929"
START_TIMEOUT_S = 180.0
IDLE_TIMEOUT_S = "45"
"""No test comes back to a conversation later, and a hundred warm ones fill a machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, ready: Callable[[], bool], timeout_s: float) -> None:
    """Wait for something only the outside decides, bounded."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class Deployment:
    """A running deployment as a client and an operator see it."""

    kind: str
    base_url: str
    model_url: str
    cluster: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    data_dir: Path | None = None
    log: Path | None = None
    compose: dict[str, str] = field(default_factory=dict)
    """For `docker compose` and our scripts: the environment that says which deployment is meant."""

    def client(self, key: str = GOOD_KEY, **options: Any) -> openai.OpenAI:
        options.setdefault("max_retries", 0)
        options.setdefault("timeout", 90)
        return openai.OpenAI(base_url=f"{self.base_url}/v1", api_key=key, **options)

    def async_client(self, key: str = GOOD_KEY) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.base_url}/v1", api_key=key, max_retries=0, timeout=200
        )

    def containers(self) -> list[str]:
        """Ids of the agents' containers, running or not (Docker only)."""
        wanted = f"label=agcluster.cluster={self.cluster}"
        done = subprocess.run(
            ["docker", "ps", "-aq", "--no-trunc", "--filter", wanted],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return done.stdout.split()

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log else ""


@contextlib.contextmanager
def scripted_model() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The stand-in for the Messages API on a free loopback port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.scripted_model", "--port", str(port)], cwd=ROOT
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until("the scripted model", lambda: answers(f"{url}/_script/log"), 30)
        yield url, process
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def embedded(isolation: str, **settings: str) -> Iterator[Deployment]:
    """`agcluster up` with a scripted upstream; stopped by SIGINT, as Ctrl-C does.

    Without spares unless told otherwise, because tests count containers and try cold starts.
    """
    with scripted_model() as (model_url, _), tempfile.TemporaryDirectory(prefix="agc-") as folder:
        port = free_port()
        cluster = f"e2e-{isolation}-{os.getpid()}-{port}"  # Two may run at once.
        log = Path(folder) / "up.log"
        environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")},
            "AGCLUSTER_ISOLATION": isolation,
            "AGCLUSTER_AGENT_IMAGE": AGENT_IMAGE,
            "AGCLUSTER_ANTHROPIC_BASE_URL": model_url,
            "AGCLUSTER_DATA_DIR": f"{folder}/d",
            "AGCLUSTER_CLUSTER": cluster,
            "AGCLUSTER_PORT": str(port),
            "AGCLUSTER_MODELS": f"{MODEL},fake-error-401,fake-error-429,fake-error-529",
            "AGCLUSTER_MODEL_ALIASES": f"claude-sonnet-4.5={MODEL}",
            "AGCLUSTER_IDLE_TIMEOUT_S": IDLE_TIMEOUT_S,
            "AGCLUSTER_SPARES_MAX": "0",
            "AGCLUSTER_FETCH_URLS": "true",
            "AGCLUSTER_A2A": str(find_spec("a2a") is not None),
            "AGCLUSTER_AGENTS_DIR": str(ROOT / "infra" / "agents"),
            **settings,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*python_command("infra.cli.main"), "up"],
                cwd=folder,
                env=environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        base_url = f"http://127.0.0.1:{port}"
        deployment = Deployment(
            isolation, base_url, model_url, cluster, [process], Path(folder) / "d", log
        )
        try:
            _wait_ready(deployment, process)
            yield deployment
        finally:
            stop(process)


def _wait_ready(deployment: Deployment, process: subprocess.Popen[bytes]) -> None:
    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"`agcluster up` ended:\n{deployment.output()[-4000:]}")
        return answers(f"{deployment.base_url}/health/ready")

    try:
        wait_until("the deployment", ready, START_TIMEOUT_S)
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{deployment.output()[-4000:]}") from None


def stop(process: subprocess.Popen[bytes], *, within_s: float = 90) -> None:
    """Ctrl-C, then force."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            raise
