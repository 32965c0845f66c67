"""Which machine this is: a random id in its data folder.

A host's name is what people call it, and two machines can have the same one: a cloned image, or two
composed deployments at one Redis. Then each would be given the other's conversations, whose files
and containers it does not have, and put its containers away as nobody's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from infra.store.workers import WorkerRecord
from infra.wire.errors import AgClusterError

_FILE = "machine"


class HostNameTaken(AgClusterError):
    """Workers of another machine live under this one's host name."""


def machine_of(data_dir: Path) -> str:
    """The id of the machine whose data folder this is, made if need be. Blocking.

    Raises `OSError` when there can be no such file.
    """
    path = data_dir / _FILE
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    made = data_dir / f"{_FILE}.{secrets.token_hex(8)}"
    try:
        made.write_text(secrets.token_hex(16))
        # Whole or not at all, and the first of several that start at once.
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
    return path.read_text()


def strangers(machine: str, workers: Sequence[WorkerRecord]) -> list[WorkerRecord]:
    """Those of other machines. One of an earlier version does not say where it is."""
    return [worker for worker in workers if worker.machine not in (None, machine)]


def refusal(found: WorkerRecord) -> HostNameTaken:
    """What to do, for people."""
    return HostNameTaken(
        f"the host name {found.host!r} is in use by worker {found.worker!r} of another machine, or "
        "of another data folder: set AGCLUSTER_HOST_ID to a name of this machine's own, or give "
        "the workers of one machine one AGCLUSTER_DATA_DIR"
    )
