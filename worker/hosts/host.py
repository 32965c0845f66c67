"""The protocol of whatever isolates an agent: Docker, bubblewrap, or memory in tests.

A host starts one container per conversation with an agent server that listens on `agent.sock` in
the session's folder. It can list, watch and stop what it started, even after a restart of the
worker. Implementations: `worker.hosts.docker.host` (Docker), `worker.hosts.bubblewrap.host`,
`tests.fakes.memory_host`; all pass `tests/contract/hosts/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NewType, Protocol

from infra.wire.ids import ConversationKey, Fence, HostId
from worker.hosts.form import USUAL_FORM, ContainerForm

ContainerId = NewType("ContainerId", str)

SOCKETS_AT, WORKSPACE_AT = "/run/agcluster", "/workspace"
"""The paths of an agent's two folders in its container."""
CLI_TEMP_AT = "/run/cli"
"""Temporary files of the CLI itself, separate from /tmp, which its tools may fill."""


@dataclass(frozen=True)
class Limits:
    """What one agent may use. Memory includes no swap."""

    cpus: float
    """In the long run; see `first_cpus`."""
    memory_mb: int
    pids: int
    tmp_mb: int
    file_mb: int = 4096
    """Maximum size of any single file, which stops a careless writer at once."""
    start_cpus: float = 0.0
    """While it starts, if that is more than `cpus`."""

    @property
    def first_cpus(self) -> float:
        """What it has from its start until `ContainerHost.limit_cpus`."""
        return max(self.cpus, self.start_cpus)

    def within(self, form: ContainerForm) -> Limits:
        """The limits of a container of that form: never more than these."""
        return replace(
            self,
            cpus=min(self.cpus, form.cpus or self.cpus),
            # What is asked for is what it has, from the beginning.
            start_cpus=self.start_cpus if form.cpus is None else 0.0,
            memory_mb=min(self.memory_mb, form.memory_mb or self.memory_mb),
            pids=min(self.pids, form.pids or self.pids),
            file_mb=min(self.file_mb, form.file_mb or self.file_mb),
        )


@dataclass(frozen=True)
class SessionFolders:
    """A session's folders on the host. The paths are short, because a Unix socket path has at most
    108 bytes.

    `sockets` is mounted at /run/agcluster, `workspace` at /workspace. Both belong to the agent's
    uid, mode 0700. The agent may write in `sockets`, so everything in there is opened without
    following links. `bundle` is mounted at /run/bundle, read-only; None for an agent without one.
    """

    sockets: Path
    workspace: Path
    bundle: Path | None = None


@dataclass(frozen=True)
class ContainerSpec:
    """The container to start for a conversation. `egress`: give its tools a proxy to
    `egress.sock`."""

    conversation: ConversationKey
    fence: Fence
    folders: SessionFolders
    limits: Limits
    egress: bool
    form: ContainerForm = USUAL_FORM
    """What of `folders` and `limits` is its agent's wish."""


@dataclass(frozen=True)
class Container:
    """One of our containers, as the host knows it (by its labels)."""

    id: ContainerId
    conversation: ConversationKey
    fence: Fence
    is_running: bool
    created_ms: int
    form: ContainerForm = USUAL_FORM
    made_ms: int | None = field(default=None, compare=False)
    """Unix time at which an engine had made it and began to start it; None if nobody knows, or if
    its host does both at once. Only the worker that starts it knows."""


@dataclass(frozen=True)
class ContainerExit:
    """A container ended, on its own or by force."""

    id: ContainerId
    conversation: ConversationKey
    exit_code: int | None
    is_out_of_memory: bool


class ContainerHost(Protocol):
    """Starts and stops containers.

    Every call has a deadline and raises `ContainerFailed` when it expires.
    """

    name: str
    """`docker` or `bubblewrap`, for logs and /health."""

    host: HostId

    async def check(self) -> None:
        """Raises `NoIsolation`, saying what is missing and how to get it."""
        ...

    async def start(self, spec: ContainerSpec) -> Container:
        """Start a container; returns when its process runs (the agent may not listen yet).

        An old container of the same conversation is removed first, unless its fence is higher: then
        it belongs to a newer owner, and this raises `LeaseLost`. Raises `EngineFailed` if the
        engine itself does not work, so that other conversations would fail too. If cancelled,
        nothing is left behind.
        """
        ...

    async def limit_cpus(self, id: ContainerId, cpus: float) -> None:
        """From now on it may use this many CPUs. It is not an error if the container is gone, or if
        this host cannot limit CPUs."""
        ...

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        """Stop and remove it. It is not an error if the container is already gone."""
        ...

    async def list(self) -> Sequence[Container]:
        """Every container of our cluster on this host, running or not."""
        ...

    async def unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        """Bytes on disk of files that its processes hold open on that folder's file system but that
        are in no folder; see `worker.hosts.unlinked` for what can be seen. 0 if nothing can be
        seen."""
        ...

    def exits(self) -> AsyncIterator[ContainerExit]:
        """Containers that end, as it happens. Never ends; resumes after an engine fault.

        The watch starts with the call. Each end is reported once, including those caused by `stop`,
        which are never reported as out of memory. A kill that nobody asked for is, because the two
        cannot be told apart.
        """
        ...

    async def aclose(self) -> None:
        """Close the connection to the engine. Containers keep running."""
        ...
