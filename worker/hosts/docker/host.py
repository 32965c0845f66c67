"""Agents in Docker: the container host of a deployment.

`worker.hosts.docker.engine` has the calls to the engine, and `worker.hosts.docker.exits` reports
ends.

Each conversation's container has no network, no capabilities, a read-only root and limits on
everything. Its only ways out are the Unix sockets in the session's folder. Calls to the engine run
in threads (one takes up to 400 ms), never in the loop.

Deliberate choices, so that nobody "repairs" them:
- `create` and `start`, never `run`: `run` pulls a missing image, which never ends offline.
- /tmp and the home folder are not `noexec`. Agents install and run packages there. /workspace is
  executable anyway, and an interpreter runs a file from anywhere, so the flag would only break pip
  and npm.
- A private /dev/shm of 64 MB is kept, for Python's and Chromium's semaphores. Like every tmpfs it
  counts against the memory limit.
- The engine does not remove containers when they end, because their exit code and out-of-memory
  flag would be gone before anybody reads them. `stop` removes them.

A worker that runs in a container needs the engine's socket, and its `data_dir` bind-mounted at the
same path as on the host, because the engine resolves mount paths there.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from docker.errors import ImageNotFound
from docker.types import ContainerConfig, HostConfig, LogConfig, Mount, Ulimit

from infra.runtime.clock import Clock, SystemClock
from infra.wire.agents.plugin import BUNDLE_AT
from infra.wire.errors import (
    AgentImageRefused,
    ContainerFailed,
    EngineFailed,
    LeaseLost,
    NoIsolation,
)
from infra.wire.ids import ConversationKey, HostId
from worker.hosts.blocking import BlockingCalls
from worker.hosts.docker.engine import (
    CALLS_MAX,
    FORM_LABEL,
    LABEL,
    LOCAL,
    DockerEngine,
    Json,
    NameTaken,
    engine_address,
    refuse_unfit_engine,
    translated,
)
from worker.hosts.docker.exits import ExitWatch
from worker.hosts.exit_feed import ExitFeed, ExitStream
from worker.hosts.folders.folders import agent_gid, agent_uid
from worker.hosts.form import ContainerForm
from worker.hosts.host import (
    CLI_TEMP_AT,
    SOCKETS_AT,
    WORKSPACE_AT,
    Container,
    ContainerId,
    ContainerSpec,
    SessionFolders,
)
from worker.hosts.unlinked import unlinked_bytes

_NAME_ATTEMPTS = 5
_NAME_WAIT_S = 0.2
_OPEN_FILES_MAX = 8192
_CONFIG = ("user", "hostname", "working_dir", "environment")
"""The parts of `hardening` that belong to the container; the rest is its host configuration."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class DockerOptions:
    """How this host's containers are created and found again."""

    image: str
    cluster: str
    runtime: str = "runc"
    engine: str = field(default_factory=engine_address)
    call_timeout_s: float = 20.0
    start_timeout_s: float = 60.0
    command: tuple[str, ...] | None = None
    """The command inside; None for the image's own."""
    own_images: frozenset[str] = frozenset()
    """The images that agents' profiles may name."""

    def image_of(self, form: ContainerForm) -> str:
        """The image of a container of that form. Raises `AgentImageRefused`."""
        if form.image is not None and form.image not in self.own_images | {self.image}:
            raise AgentImageRefused(f"image {form.image} is not one of AGCLUSTER_AGENT_IMAGES")
        return form.image or self.image


class DockerHost:
    """`ContainerHost` for a Docker engine that shares this machine's kernel and files."""

    name = "docker"

    def __init__(self, host: HostId, options: DockerOptions, *, clock: Clock | None = None) -> None:
        self.host = host
        self._options = options
        self._clock = clock or SystemClock()
        self._engine = DockerEngine(options.engine, options.call_timeout_s)
        self._calls = BlockingCalls("docker", threads=CALLS_MAX)
        self._feed = ExitFeed()
        self._watch = ExitWatch(self._engine, self._labels(), self._feed.publish)

    async def check(self) -> None:
        """Raises `NoIsolation` if no engine answers, or if it cannot see this machine's sockets."""
        try:
            await self._run(self._check, "check the engine", self._options.call_timeout_s)
        except ContainerFailed as error:
            raise NoIsolation(f"no Docker engine answers: {error}") from error

    async def start(self, spec: ContainerSpec) -> Container:
        """See `ContainerHost`. Raises `LeaseLost` if a newer owner's container exists."""
        return await self._run(
            lambda: self._start(spec),
            f"start a container for {spec.conversation}",
            self._options.start_timeout_s,
            undo=lambda made: self._discard(made.id),
        )

    async def limit_cpus(self, id: ContainerId, cpus: float) -> None:
        """See `ContainerHost`."""
        await self._run(
            lambda: self._engine.limit_cpus(id, nano_cpus(cpus)),
            f"limit container {id[:12]}",
            self._options.call_timeout_s,
        )

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        """See `ContainerHost`."""
        self._feed.expect_end(id)
        await self._run(
            lambda: self._stop(id, grace_s),
            f"stop container {id[:12]}",
            self._options.call_timeout_s + grace_s,
        )

    async def list(self) -> Sequence[Container]:
        """See `ContainerHost`."""
        found = await self._run(
            lambda: self._engine.list(self._labels()),
            "list containers",
            self._options.call_timeout_s,
        )
        self._watch.expect(c for c in found if c.is_running)
        return found

    async def unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        """See `ContainerHost`. Behind an engine proxy, the proxy looks, because it sees the
        processes."""
        return await self._run(
            lambda: self._unlinked_bytes(id, workspace),
            f"look at the open files of container {id[:12]}",
            self._options.call_timeout_s,
        )

    def exits(self) -> ExitStream:
        """See `ContainerHost`. Includes containers that were stopped on purpose, never as out of
        memory."""
        stream = self._feed.subscribe()
        self._watch.start()
        return stream

    async def aclose(self) -> None:
        """See `ContainerHost`."""
        self._watch.stop()
        self._calls.close()
        self._engine.close()

    async def _run(
        self,
        work: Callable[[], _T],
        what: str,
        timeout_s: float,
        undo: Callable[[_T], None] | None = None,
    ) -> _T:
        def asked() -> _T:
            with translated(what):
                return work()

        try:
            return await self._calls.run(asked, timeout_s=timeout_s, undo=undo)
        except TimeoutError as error:
            raise EngineFailed(f"the engine did not {what} within {timeout_s:g} s") from error

    def _check(self) -> None:
        if sys.platform != "linux":
            raise NoIsolation(
                "Docker on this system runs in a virtual machine, and Unix sockets in shared "
                "folders do not cross into it. Use `docker compose up`: there the worker runs "
                "beside its agents"
            )
        if not self._options.engine.startswith(LOCAL):
            raise NoIsolation(
                f"the engine at {self._options.engine} is on another machine; a worker needs the "
                "engine of its own (DOCKER_HOST=unix:///var/run/docker.sock)"
            )
        refuse_unfit_engine(self._engine.info(), self._options.runtime)

    def _start(self, spec: ContainerSpec) -> Container:
        name = container_name(self._options.cluster, spec.conversation)
        created_ms = self._clock.unix_ms()
        body = create_body(
            self._options, self.host, spec, created_ms, version=self._engine.client.api.api_version
        )
        for attempt in range(_NAME_ATTEMPTS):
            self._remove_leftover(name, spec)
            try:
                id = self._created(name, body, spec.form)
                break
            except NameTaken:
                # Another worker was faster, or a removal is not finished yet.
                if attempt == _NAME_ATTEMPTS - 1:
                    raise
                threading.Event().wait(_NAME_WAIT_S)
        made = Container(
            id,
            spec.conversation,
            spec.fence,
            True,
            created_ms,
            spec.form,
            made_ms=self._clock.unix_ms(),
        )
        self._watch.expect([made])
        try:
            self._engine.start(id)
        except BaseException:
            self._discard(id)
            raise
        return made

    def _created(self, name: str, body: Json, form: ContainerForm) -> ContainerId:
        try:
            return self._engine.create(name, body)
        except EngineFailed as error:
            if form.image is not None and isinstance(error.__cause__, ImageNotFound):
                # The engine is well, and other agents start here.
                raise AgentImageRefused(f"image {form.image} is not on this host") from error
            raise

    def _remove_leftover(self, name: str, spec: ContainerSpec) -> None:
        found = self._engine.find(name)
        if found is None:
            return
        labels = found["Config"]["Labels"] or {}
        if labels.get(LABEL + "cluster") != self._options.cluster:
            raise ContainerFailed(f"a container that is not ours has the name {name}")
        if int(labels.get(LABEL + "fence", 0)) > spec.fence:
            raise LeaseLost(spec.conversation, spec.fence)
        self._discard(ContainerId(found["Id"]))

    def _discard(self, id: ContainerId) -> None:
        self._feed.expect_end(id)
        self._engine.remove(id)

    def _stop(self, id: ContainerId, grace_s: float) -> None:
        if grace_s > 0:
            self._engine.stop(id, grace_s)
        self._engine.remove(id)

    def _unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        told = self._engine.told_unlinked_bytes(id)
        if told is not None:
            return told
        pid = self._engine.pid_of(id)
        return unlinked_bytes(pid, workspace) if pid else 0

    def _labels(self) -> dict[str, str]:
        return host_labels(self._options.cluster, self.host)


def host_labels(cluster: str, host: HostId) -> dict[str, str]:
    """The labels of this cluster's containers on this host."""
    return {LABEL + "cluster": cluster, LABEL + "host": host}


def create_body(
    options: DockerOptions, host: HostId, spec: ContainerSpec, created_ms: int, *, version: str
) -> Json:
    """The complete request that creates a container, as sent to the engine.

    The worker sends it, and the engine proxy builds it again to compare, so the two cannot drift
    apart.
    """
    settings = hardening(spec) | {"runtime": options.runtime}
    own = {
        LABEL + "conv": spec.conversation,
        LABEL + "fence": str(spec.fence),
        LABEL + "created": str(created_ms),
    }
    if form := spec.form.text:
        own[FORM_LABEL] = form
    config = {name: settings.pop(name) for name in _CONFIG if name in settings}
    body = ContainerConfig(
        version,
        options.image_of(spec.form),
        list(options.command or ()),
        entrypoint=[] if options.command else None,
        labels=host_labels(options.cluster, host) | own,
        host_config=HostConfig(version=version, **settings),
        **config,
    )
    return {name: value for name, value in body.items() if value is not None}


def nano_cpus(cpus: float) -> int:
    """CPUs in the engine's unit."""
    return int(cpus * 1e9)


def hardening(spec: ContainerSpec) -> Json:
    """The options that make our containers safe, in the docker SDK's terms."""
    limits = spec.limits
    uid, gid = agent_uid(), agent_gid()
    tmpfs = f"rw,exec,nosuid,nodev,size={limits.tmp_mb}m"
    return {
        "user": f"{uid}:{gid}",
        "hostname": "agent",
        "working_dir": WORKSPACE_AT,
        # PATH is the image's own. The sockets folder shows whether tools have egress.
        "environment": {"HOME": "/home/agent", "LANG": "C.UTF-8"},
        "network_mode": "none",
        # Otherwise the engine copies the host's files, with the names and resolvers of its network.
        "dns": ["127.0.0.1"],
        "dns_search": ["."],
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "ipc_mode": "private",
        "shm_size": "64m",
        "tmpfs": {
            "/tmp": f"{tmpfs},mode=1777",
            CLI_TEMP_AT: f"{tmpfs},uid={uid},gid={gid},mode=0700",
            "/home/agent": f"{tmpfs},uid={uid},gid={gid},mode=0700",
        },
        "mounts": list(_mounts(spec.folders)),
        "init": True,
        "pids_limit": limits.pids,
        "mem_limit": f"{limits.memory_mb}m",
        "memswap_limit": f"{limits.memory_mb}m",
        "nano_cpus": nano_cpus(limits.first_cpus),
        # When the machine itself runs out of memory, an agent is killed before Redis or a worker.
        "oom_score_adj": 500,
        "ulimits": [
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="fsize", soft=limits.file_mb << 20, hard=limits.file_mb << 20),
            Ulimit(name="nofile", soft=_OPEN_FILES_MAX, hard=_OPEN_FILES_MAX),
        ],
        "log_config": LogConfig(type="local", config={"max-size": "1m", "max-file": "2"}),
    }


def _mounts(folders: SessionFolders) -> Iterator[Mount]:
    yield Mount(SOCKETS_AT, str(folders.sockets), type="bind")
    yield Mount(WORKSPACE_AT, str(folders.workspace), type="bind")
    if folders.bundle is not None:
        yield Mount(BUNDLE_AT, str(folders.bundle), type="bind", read_only=True)


def container_name(cluster: str, conversation: ConversationKey) -> str:
    """One name per conversation, so that the engine refuses a second container for it."""
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", f"agc-{cluster}-{conversation}")
