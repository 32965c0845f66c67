"""The real clients, beside one deployment with Docker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.e2e.clients.node import LineProgram, install, running
from tests.e2e.deployments import GOOD_KEY, MODEL, Deployment
from tests.parts import give_up, need


@pytest.fixture(scope="session")
def packages() -> Path:
    need("node")
    try:
        return install()
    except RuntimeError as error:
        give_up("node", str(error))


@pytest.fixture(scope="module")
def librechat(docker_deployment: Deployment, packages: Path) -> Iterator[LineProgram]:
    with _client("librechat.cjs", docker_deployment, packages) as program:
        yield program


@pytest.fixture(scope="module")
def openai_node(docker_deployment: Deployment, packages: Path) -> Iterator[LineProgram]:
    with _client("openai_node.cjs", docker_deployment, packages) as program:
        yield program


def _client(
    program: str, deployment: Deployment, packages: Path
) -> AbstractContextManager[LineProgram]:
    return running(
        program,
        packages=packages,
        BASE_URL=f"{deployment.base_url}/v1",
        API_KEY=GOOD_KEY,
        MODEL=MODEL,
    )
