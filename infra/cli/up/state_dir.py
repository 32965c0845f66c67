"""The folder of `agcluster up`: lock, secret, Redis data, sockets, workspaces.

One running instance per folder. The lock is an flock whose descriptor the guard inherits, so it is
held until the last program of a killed instance is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path

from infra.wire.errors import AgClusterError

SOCKET_PATH_MAX_BYTES = 103
"""The longest path of a Unix socket that both Linux (107) and macOS (103) accept."""

_LONGEST_BELOW = len("/s/" + 24 * "x" + "/egress.sock")
DATA_DIR_MAX_BYTES = SOCKET_PATH_MAX_BYTES - _LONGEST_BELOW


class StateDirRefused(AgClusterError):
    """The folder cannot be used; the message says why and what to do."""


class StateDir:
    """The paths in the folder, and what is created there at the first start."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.redis = root / "redis"
        self.redis_socket = self.redis / "redis.sock"
        self.secret_file = root / "secret"
        self.lock_file = root / "up.lock"

    def fault(self) -> str | None:
        """Why the folder cannot be used, or None. Creates nothing."""
        length = len(os.fsencode(self.root))
        if length > DATA_DIR_MAX_BYTES:
            return (
                f"{self.root} is {length} bytes long and the names of Unix sockets below it would "
                f"not fit: set AGCLUSTER_DATA_DIR to a path of at most {DATA_DIR_MAX_BYTES} bytes"
            )
        existing = next(p for p in (self.root, *self.root.parents) if p.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            return f"{existing} is no folder we may write in: set AGCLUSTER_DATA_DIR to another"
        return None

    def make(self) -> None:
        """Create the folders. Raises `StateDirRefused`."""
        if fault := self.fault():
            raise StateDirRefused(fault)
        # Agents with another uid pass through the root folder to their own; nobody else may open
        # Redis'.
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.redis.mkdir(mode=0o700, exist_ok=True)

    def secret(self) -> str:
        """The secret of this machine's own cluster: created once, readable only by its user."""
        try:
            found = self.secret_file.read_text().strip()
        except FileNotFoundError:
            found = ""
        if len(found) >= 32:
            self.secret_file.chmod(0o600)
            return found
        made = secrets.token_hex(32)
        draft = self.secret_file.with_suffix(f".{os.getpid()}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(made + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.secret_file)
        return made

    def holder(self) -> str | None:
        """A description of who runs here now; None if nobody does."""
        try:
            with self.lock_file.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _story(file.read())
        except FileNotFoundError:
            pass
        return None


class InstanceLock:
    """The right to run in a state folder."""

    def __init__(self, state: StateDir) -> None:
        """Raises `StateDirRefused` if somebody else holds it."""
        self._fd = os.open(state.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            story = _story(os.pread(self._fd, 4096, 0))
            os.close(self._fd)
            raise StateDirRefused(
                f"another `agcluster up` uses {state.root} ({story}): stop it first, or set "
                "AGCLUSTER_DATA_DIR to a folder of this instance's own"
            ) from None

    @property
    def fd(self) -> int:
        """For the guard to inherit: the lock is held while any process has it open."""
        return self._fd

    def describe(self, url: str) -> None:
        """Write a message for those who find the lock held."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)

    def close(self) -> None:
        """Release it, unless the guard still holds it."""
        os.close(self._fd)


def _story(raw: bytes) -> str:
    try:
        told = json.loads(raw)
        return f"process {told['pid']}, {told['url']}"
    except (ValueError, KeyError, TypeError):
        return "just starting or just stopping"
