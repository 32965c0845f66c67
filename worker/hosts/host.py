"""The seam to whatever isolates an agent: Docker, bubblewrap, or memory in tests.

A host starts one container per conversation with an agent server in it that listens on `agent.sock`
of the session's folder, and can list, watch and stop what it started, also after a restart of the
worker. Implementations: `worker.hosts.docker.host` (Docker), `worker.hosts.bubblewrap.host`,
`tests.fakes.memory_host`; all pass `tests/contract/hosts/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Protocol

from infra.wire.ids import ConversationKey, Fence, HostId

ContainerId = NewType("ContainerId", str)

SOCKETS_AT, WORKSPACE_AT = "/run/agcluster", "/workspace"
"""Where an agent finds its two folders."""
CLI_TEMP_AT = "/run/cli"
"""Temporary files of the CLI itself: apart from /tmp, which its tools may fill."""


@dataclass(frozen=True)
class Limits:
    """What one agent may use. Swap is not added to the memory."""

    cpus: float
    memory_mb: int
    pids: int
    tmp_mb: int
    file_mb: int = 4096
    """Size of a single file, wherever it lies: ends the careless writer at once."""


@dataclass(frozen=True)
class SessionFolders:
    """A session's folders on the host: short paths, for Unix socket names end at 108 bytes.

    `sockets` is mounted at /run/agcluster, `workspace` at /workspace; both belong to the agent's
    uid, mode 0700. The agent may write in `sockets`, so whatever lies there is opened without
    following links.
    """

    sockets: Path
    workspace: Path


@dataclass(frozen=True)
class ContainerSpec:
    """One conversation's container to be. `egress`: give the tools a proxy to `egress.sock`."""

    conversation: ConversationKey
    fence: Fence
    folders: SessionFolders
    limits: Limits
    egress: bool


@dataclass(frozen=True)
class Container:
    """A container of ours, as the host knows it (by its labels)."""

    id: ContainerId
    conversation: ConversationKey
    fence: Fence
    is_running: bool
    created_ms: int


@dataclass(frozen=True)
class ContainerExit:
    """A container ended by itself or by force."""

    id: ContainerId
    conversation: ConversationKey
    exit_code: int | None
    is_out_of_memory: bool


class ContainerHost(Protocol):
    """Starts and stops isolations.

    Every call has a deadline and raises `ContainerFailed` past it.
    """

    name: str
    """`docker` or `bubblewrap`, for logs and /health."""

    host: HostId

    async def check(self) -> None:
        """Raises `NoIsolation` saying what is missing and how to get it."""
        ...

    async def start(self, spec: ContainerSpec) -> Container:
        """Start it; returns when the process runs (the agent may not listen yet).

        A leftover container of the same conversation is removed first; one with a higher fence is
        a newer owner's and stays: `LeaseLost`. Cancelled: nothing stays behind. `EngineFailed` when
        what makes containers does not, so that another conversation would fare no better.
        """
        ...

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        """Stop and remove it. One that is gone already is no error."""
        ...

    async def list(self) -> Sequence[Container]:
        """Every container of our cluster on this host, running or not."""
        ...

    async def unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        """What its processes hold open on that folder's file system and is in no folder any more,
        in bytes on disk; `worker.hosts.unlinked` says what is seen. 0 where nothing can be seen.
        """
        ...

    def exits(self) -> AsyncIterator[ContainerExit]:
        """Containers that end, as it happens, without end; resumes after an engine fault.

        Watched from the call on. Each end is told once, also one asked for by `stop`, which is
        never told as out of memory; a kill nobody asked for is, for the two look alike.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the engine. Containers stay."""
        ...
