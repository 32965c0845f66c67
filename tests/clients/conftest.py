"""Every client family beside a deployment of each kind, with two API replicas."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.replicas import two_replicas
from tests.e2e.clients.node import LineProgram, driving
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment, embedded, free_port
from tests.parts import need, node_program

ENVIRONMENT = os.environ.get("AGCLUSTER_TEST_CLIENTS")
"""Where `make test-clients` put the libraries. Without it this folder is not collected."""

PROGRAMS = Path(__file__).resolve().parent / "programs"
KINDS = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("bubblewrap", marks=pytest.mark.bwrap),
]
Family = Callable[[str], LineProgram]

if ENVIRONMENT is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", params=KINDS)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    need({"docker": "docker", "bubblewrap": "bwrap"}[request.param])
    port = free_port()
    public = {"AGCLUSTER_PUBLIC_URL": f"http://127.0.0.1:{port}"}
    with (
        embedded(request.param, **public) as running,
        two_replicas(running, port=port) as balanced,
    ):
        yield balanced


@pytest.fixture(scope="session")
def family(deployment: Deployment) -> Iterator[Family]:
    """The running program of a client family, by the name of its file. Started when first asked
    for."""
    with contextlib.ExitStack() as stack:
        running: dict[str, LineProgram] = {}

        def started(name: str) -> LineProgram:
            if name not in running:
                running[name] = stack.enter_context(_program(name, deployment))
            return running[name]

        yield started


def _program(name: str, deployment: Deployment) -> contextlib.AbstractContextManager[LineProgram]:
    assert ENVIRONMENT is not None
    packages = Path(ENVIRONMENT)
    command = (
        [str(node_program()), str(PROGRAMS / name)]
        if name.endswith(".cjs")
        else [str(packages / "bin" / "python"), str(PROGRAMS / name)]
    )
    return driving(
        command,
        BASE_URL=f"{deployment.base_url}/v1",
        API_KEY=GOOD_KEY,
        MODEL=MODEL,
        NODE_PATH=str(packages / "node_modules"),
        # Nobody asks the internet for anything.
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LANGSMITH_TRACING="false",
        OPENAI_API_KEY=GOOD_KEY,
        PYTHONWARNINGS="ignore",
        HOME=str(packages),
    )
