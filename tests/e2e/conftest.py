"""One deployment of each kind for the whole run; a test runs on those that have a part in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.composed import composed
from tests.e2e.deployments import Deployment, embedded
from tests.parts import need

KINDS = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("bubblewrap", marks=pytest.mark.bwrap),
    pytest.param("compose", marks=pytest.mark.compose),
]

ONE_KIND = pytest.mark.parametrize("deployment", KINDS[:1], indirect=True)
"""For what no isolation has a part in: forms, statuses, names."""

IN_CONTAINERS = pytest.mark.parametrize("deployment", [KINDS[0], KINDS[2]], indirect=True)
"""Docker on one machine, and the composed deployment."""

COMPOSED = pytest.mark.parametrize("deployment", KINDS[2:], indirect=True)
"""What operators do with `compose.yaml`."""


@pytest.fixture(scope="package", params=KINDS)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    kind: str = request.param
    need({"docker": "docker", "bubblewrap": "bwrap", "compose": "compose"}[kind])
    need("redis")
    # Nobody counts containers in bubblewrap: there the pool is as users have it.
    pool = {"AGCLUSTER_SPARES_MAX": "4"} if kind == "bubblewrap" else {}
    with composed() if kind == "compose" else embedded(kind, **pool) as running:
        yield running


@pytest.fixture(scope="package")
def docker_deployment() -> Iterator[Deployment]:
    """One deployment for what does not differ between kinds: conversations, clients, breakage.

    Its workspaces are so small that one can be filled in a moment.
    """
    need("docker")
    need("redis")
    with embedded("docker", AGCLUSTER_WORKSPACE_MAX_MB="256") as running:
        yield running
