"""`docker compose up`: the production-like deployment, with the scripted model as its upstream."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator

from tests.e2e.deployments import ROOT, Deployment, answers, free_port, wait_until

CLUSTER = "e2e-compose"


@contextlib.contextmanager
def composed() -> Iterator[Deployment]:
    """Start the project's own compose.yaml under a name of its own; take it down with its volumes."""
    raise NotImplementedError
    yield
