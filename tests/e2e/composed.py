"""`docker compose up`: the production-like deployment, with the scripted model as its upstream."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.deployments import (
    IDLE_TIMEOUT_S,
    MODEL,
    ROOT,
    START_TIMEOUT_S,
    Deployment,
    answers,
    free_port,
    wait_until,
)


@contextlib.contextmanager
def composed() -> Iterator[Deployment]:
    """The project's own compose.yaml under a name of its own; taken down with its volumes."""
    cluster = f"e2e-compose-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="agc-") as folder:
        os.chmod(folder, 0o755)  # Its data folder is the containers' uid's.
        data_dir = Path(folder) / "d"
        data_dir.mkdir()
        os.chown(data_dir, 1000, 1000)
        port, model_port = free_port(), free_port()
        values = {
            "AGCLUSTER_SECRET": secrets.token_hex(32),
            "REDIS_API_PASSWORD": secrets.token_hex(16),
            "REDIS_WORKER_PASSWORD": secrets.token_hex(16),
            "DOCKER_GID": str(os.stat("/var/run/docker.sock").st_gid),
            "COMPOSE_DATA_DIR": str(data_dir),
            "AGCLUSTER_PORT": str(port),
            "MODEL_PORT": str(model_port),
            "AGCLUSTER_CLUSTER": cluster,
            "AGCLUSTER_ANTHROPIC_BASE_URL": "http://model:8099",
            # The model's journal shows keys only outside the demo mode.
            "MODEL_MODE": "--latency-ms=0",
            # The worker takes its agents along when it goes.
            "AGCLUSTER_RETIRE_ON_EXIT": "true",
            "AGCLUSTER_MODELS": f"{MODEL},fake-error-401,fake-error-429,fake-error-529",
            "AGCLUSTER_MODEL_ALIASES": f"claude-sonnet-4.5={MODEL}",
            "AGCLUSTER_IDLE_TIMEOUT_S": IDLE_TIMEOUT_S,
        }
        env_file = Path(folder) / "env"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        compose = ["docker", "compose", "-p", cluster, "--env-file", str(env_file)]
        compose += ["--profile", "demo", "-f", str(ROOT / "compose.yaml")]
        log = Path(folder) / "compose.log"
        deployment = Deployment(
            "compose",
            f"http://127.0.0.1:{port}",
            f"http://127.0.0.1:{model_port}",
            cluster,
            data_dir=data_dir,
            log=log,
        )
        try:
            _run(compose, "up", "-d", "--wait", "--no-build", log=log)
            wait_until(
                "the load balancer", lambda: answers(f"{deployment.base_url}/health/ready"), 30
            )
            yield deployment
        finally:
            with contextlib.suppress(RuntimeError):
                _run(compose, "logs", "--no-color", log=log)
            _run(compose, "down", "-v", "--timeout", "20", log=log)


def _run(compose: list[str], *arguments: str, log: Path) -> None:
    with log.open("ab") as output:
        done = subprocess.run(
            [*compose, *arguments],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"compose {arguments[0]}:\n{log.read_text(errors='replace')[-4000:]}")
