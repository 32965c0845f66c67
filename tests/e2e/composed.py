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

_SETTINGS = {
    "AGCLUSTER_ANTHROPIC_BASE_URL": "http://model:8099",
    # The model's journal shows keys only outside the demo mode.
    "MODEL_MODE": "--latency-ms=0",
    "AGCLUSTER_MODELS": f"{MODEL},fake-error-401,fake-error-429,fake-error-529",
    "AGCLUSTER_MODEL_ALIASES": f"claude-sonnet-4.5={MODEL}",
    "AGCLUSTER_IDLE_TIMEOUT_S": IDLE_TIMEOUT_S,
    # Tests count containers.
    "AGCLUSTER_SPARES_MAX": "0",
}


AGENTS = {
    "skilled.yaml": "tools: [Bash]\nskills: [own/house-style]\nworkspace: start\n"
    "container: {memory_mb: 512, pids: 128}\n",
    "own/house-style/SKILL.md": "---\ndescription: How texts are written.\n---\nBILLYWITCH.\n",
    "start/README.md": "Begin here.",
}
"""The operator's folder of agents."""


@contextlib.contextmanager
def composed() -> Iterator[Deployment]:
    """The project's own compose.yaml under a name of its own; taken down with its volumes."""
    with tempfile.TemporaryDirectory(prefix="agc-") as folder:
        deployment = _deployment(Path(folder))
        try:
            _run(deployment, "docker", "compose", "up", "-d", "--wait", "--no-build")
            wait_until(
                "the load balancer", lambda: answers(f"{deployment.base_url}/health/ready"), 120
            )
            yield deployment
            _leave_busy(deployment)
        finally:
            with contextlib.suppress(RuntimeError):
                _run(deployment, "docker", "compose", "logs", "--no-color")
            said = _run(deployment, "make", "-s", "compose-down", "ARGS=-v")
        _judge_end(deployment, said)


def _deployment(folder: Path) -> Deployment:
    """What Compose is told of it, in files of the folder."""
    cluster = f"e2e-compose-{os.getpid()}"
    os.chmod(folder, 0o755)  # Its data folder is the containers' uid's.
    data_dir = folder / "d"
    data_dir.mkdir()
    os.chown(data_dir, 1000, 1000)
    for name, text in AGENTS.items():
        file = folder / "agents" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    port, model_port = free_port(), free_port()
    values = _SETTINGS | {
        "AGCLUSTER_SECRET": secrets.token_hex(32),
        "REDIS_API_PASSWORD": secrets.token_hex(16),
        "REDIS_WORKER_PASSWORD": secrets.token_hex(16),
        "REDIS_OPS_PASSWORD": secrets.token_hex(16),
        "DOCKER_GID": str(os.stat("/var/run/docker.sock").st_gid),
        "COMPOSE_DATA_DIR": str(data_dir),
        "COMPOSE_AGENTS_DIR": str(folder / "agents"),
        "AGCLUSTER_PORT": str(port),
        "MODEL_PORT": str(model_port),
        "AGCLUSTER_CLUSTER": cluster,
    }
    env_file = folder / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return Deployment(
        "compose",
        f"http://127.0.0.1:{port}",
        f"http://127.0.0.1:{model_port}",
        cluster,
        data_dir=data_dir,
        log=folder / "compose.log",
        compose=os.environ
        | {
            "COMPOSE_PROJECT_NAME": cluster,
            "COMPOSE_FILE": str(ROOT / "compose.yaml"),
            "COMPOSE_ENV_FILES": str(env_file),
            "COMPOSE_PROFILES": "demo",
        },
    )


def _judge_end(deployment: Deployment, said: str) -> None:
    """It ended in order, and nothing is left of it. `said`: by compose-down."""
    assert deployment.containers() == []
    assert _left_of(deployment.compose["COMPOSE_PROJECT_NAME"]) == []
    assert "compose-down: no agent" in said
    assert "exit code" not in said, said
    assert "no worker has stopped" not in said, said


def _leave_busy(deployment: Deployment) -> None:
    """An agent is in the middle of a turn when the deployment is taken down."""
    chunks = deployment.client().chat.completions.create(
        model=MODEL,
        stream=True,
        messages=[{"role": "user", "content": "stream 100 deltas every 100 ms"}],
        extra_headers={"X-On-Disconnect": "continue"},
    )
    with chunks:
        next(chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content)
    assert deployment.containers()


def _left_of(project: str) -> list[str]:
    """What the engine has of a project of Compose."""
    wanted = ("--filter", f"label=com.docker.compose.project={project}")
    kinds = (("ps", "-aq"), ("network", "ls", "-q"), ("volume", "ls", "-q"))
    listed = (
        subprocess.run(
            ["docker", *kind, *wanted], capture_output=True, text=True, check=True, timeout=30
        )
        for kind in kinds
    )
    return [one for kind in listed for one in kind.stdout.split()]


def _run(deployment: Deployment, *command: str) -> str:
    """What it printed, which also goes to the log. Raises `RuntimeError` when it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=deployment.compose,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert deployment.log
    with deployment.log.open("a") as log:
        log.write(done.stdout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{deployment.output()[-4000:]}")
    return done.stdout
