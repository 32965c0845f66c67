"""The id of this machine: a random id in its data folder.

Two machines can have the same host name: a cloned image, or two composed deployments with one
Redis. Each would then get the other's conversations, whose files and containers it does not have,
and would remove the other's containers as orphans.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from infra.store.placement.workers import WorkerRecord
from infra.wire.errors import AgClusterError

_FILE = "machine"


class HostNameTaken(AgClusterError):
    """Workers of another machine use this host name."""


def machine_of(data_dir: Path) -> str:
    """The id of the machine that has this data folder, created if necessary. Blocking.

    Raises `OSError` if the file cannot be created.
    """
    path = data_dir / _FILE
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    made = data_dir / f"{_FILE}.{secrets.token_hex(8)}"
    try:
        made.write_text(secrets.token_hex(16))
        # Atomic, and the first of several workers that start at the same time wins.
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
    return path.read_text()


def strangers(machine: str, workers: Sequence[WorkerRecord]) -> list[WorkerRecord]:
    """Workers of other machines. Workers of an earlier version do not report their machine."""
    return [worker for worker in workers if worker.machine not in (None, machine)]


def refusal(found: WorkerRecord) -> HostNameTaken:
    """The error, with what to do, for people."""
    return HostNameTaken(
        f"the host name {found.host!r} is in use by worker {found.worker!r} of another machine, or "
        "of another data folder: set AGCLUSTER_HOST_ID to a name of this machine's own, or give "
        "the workers of one machine one AGCLUSTER_DATA_DIR"
    )
