"""Agents in Docker: the container host of a deployment, and the only module that knows Docker.

Each conversation's container has no network and no capability, a read-only root and bounds on
everything; its only ways out are the Unix sockets in the session's folder. The engine is asked in
threads (a call takes up to 400 ms), never in the loop.

Deliberate choices, so that nobody "repairs" them:
- `create` and `start`, never `run`: that one pulls a missing image, which takes for ever offline.
- /tmp and the home folder are not `noexec`. Agents install and run packages there; /workspace is
  executable anyway and an interpreter runs a file from anywhere, so the flag would only break pip
  and npm.
- A private /dev/shm of 64 MB stays, for Python's and Chromium's semaphores; it counts into the
  memory limit like every tmpfs.
- Containers are not removed by the engine when they end: their exit code and the out-of-memory flag
  would be gone before anybody reads them. `stop` removes.

A worker that is itself a container needs the engine's socket and its `data_dir` bind-mounted at
the same path as on the host, for the engine resolves the paths of mounts there.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, TypeVar

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import ContainerConfig, HostConfig, LogConfig, Mount, Ulimit
from requests.exceptions import RequestException

from infra.runtime.clock import Clock, SystemClock
from infra.runtime.logs import fields
from infra.wire.errors import (
    AgClusterError,
    ContainerFailed,
    EngineFailed,
    LeaseLost,
    NoIsolation,
)
from infra.wire.ids import ConversationKey, Fence, HostId
from worker.blocking import BlockingCalls
from worker.exit_feed import ExitFeed, ExitStream
from worker.folders import agent_gid, agent_uid
from worker.hosts import Container, ContainerExit, ContainerId, ContainerSpec

LABEL = "agcluster."
SOURCES_LABEL = LABEL + "sources"
KILLED = 137
"""128 + SIGKILL: what the kernel's out-of-memory killer leaves, or somebody's `kill -9`."""

_LOCAL = "unix://"
_THREADS = 8
_NAME_ATTEMPTS = 5
_NAME_WAIT_S = 0.2
_REWATCH_S = 1.0
_OPEN_FILES_MAX = 8192
_CONFIG = ("user", "hostname", "working_dir", "environment")
"""What of `hardening` is the container's own; the rest is between it and its host."""

_T = TypeVar("_T")
# The engine's answers are JSON without types; these are read in this module only.
Json = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DockerOptions:
    """How this host's containers are made and found again."""

    image: str
    cluster: str
    runtime: str = "runc"
    engine: str = field(default_factory=lambda: engine_address())
    call_timeout_s: float = 20.0
    start_timeout_s: float = 60.0
    command: tuple[str, ...] | None = None
    """What runs inside; None: the image's own command."""


class DockerHost:
    """`ContainerHost` on a Docker engine that shares this machine's kernel and files."""

    name = "docker"

    def __init__(self, host: HostId, options: DockerOptions, *, clock: Clock | None = None) -> None:
        self.host = host
        self._options = options
        self._clock = clock or SystemClock()
        self._engine = _Engine(options.engine, options.call_timeout_s)
        self._calls = BlockingCalls("docker", threads=_THREADS)
        self._feed = ExitFeed()
        self._watch = _Watch(self._engine, self._labels(), self._feed.publish)

    async def check(self) -> None:
        """Raises `NoIsolation` when no engine answers or it cannot see this machine's sockets."""
        try:
            await self._run(self._check, "check the engine", self._options.call_timeout_s)
        except ContainerFailed as error:
            raise NoIsolation(f"no Docker engine answers: {error}") from error

    async def start(self, spec: ContainerSpec) -> Container:
        """See `ContainerHost`. Raises `LeaseLost` when a newer owner's container is there."""
        return await self._run(
            lambda: self._start(spec),
            f"start a container for {spec.conversation}",
            self._options.start_timeout_s,
            undo=lambda made: self._discard(made.id),
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

    def exits(self) -> ExitStream:
        """See `ContainerHost`. Those stopped on purpose come too, never as out of memory."""
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
        def translated() -> _T:
            with _translated(what):
                return work()

        try:
            return await self._calls.run(translated, timeout_s=timeout_s, undo=undo)
        except TimeoutError as error:
            raise EngineFailed(f"the engine did not {what} within {timeout_s:g} s") from error

    def _check(self) -> None:
        if sys.platform != "linux":
            raise NoIsolation(
                "Docker on this system runs in a virtual machine, and Unix sockets in shared "
                "folders do not cross into it. Use `docker compose up`: there the worker runs "
                "beside its agents"
            )
        if not self._options.engine.startswith(_LOCAL):
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
                id = self._engine.create(name, body)
                break
            except _NameTaken:
                # Another worker was faster, or a removal is not through yet.
                if attempt == _NAME_ATTEMPTS - 1:
                    raise
                threading.Event().wait(_NAME_WAIT_S)
        made = Container(id, spec.conversation, spec.fence, True, created_ms)
        self._watch.expect([made])
        try:
            self._engine.start(id)
        except BaseException:
            self._discard(id)
            raise
        return made

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

    def _labels(self) -> dict[str, str]:
        return host_labels(self._options.cluster, self.host)


def host_labels(cluster: str, host: HostId) -> dict[str, str]:
    """What marks a container as one of this cluster on this host."""
    return {LABEL + "cluster": cluster, LABEL + "host": host}


def create_body(
    options: DockerOptions, host: HostId, spec: ContainerSpec, created_ms: int, *, version: str
) -> Json:
    """All that the engine is told of a container, as it goes over the line.

    The worker sends it and the engine proxy makes it again to compare, so the two cannot drift.
    """
    settings = hardening(spec) | {"runtime": options.runtime}
    own = {
        LABEL + "conv": spec.conversation,
        LABEL + "fence": str(spec.fence),
        LABEL + "created": str(created_ms),
    }
    config = {name: settings.pop(name) for name in _CONFIG if name in settings}
    body = ContainerConfig(
        version,
        options.image,
        list(options.command or ()),
        entrypoint=[] if options.command else None,
        labels=host_labels(options.cluster, host) | own,
        host_config=HostConfig(version=version, **settings),
        **config,
    )
    return {name: value for name, value in body.items() if value is not None}


def hardening(spec: ContainerSpec) -> Json:
    """What makes a container of ours safe, in the docker SDK's words."""
    limits = spec.limits
    uid, gid = agent_uid(), agent_gid()
    tmpfs = f"rw,exec,nosuid,nodev,size={limits.tmp_mb}m"
    return {
        "user": f"{uid}:{gid}",
        "hostname": "agent",
        "working_dir": "/workspace",
        # PATH is the image's own. Whether tools have a way out shows in the sockets folder.
        "environment": {"HOME": "/home/agent", "LANG": "C.UTF-8"},
        "network_mode": "none",
        # Else the engine copies the host's: the names and resolvers of its network.
        "dns": ["127.0.0.1"],
        "dns_search": ["."],
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "ipc_mode": "private",
        "shm_size": "64m",
        "tmpfs": {
            "/tmp": f"{tmpfs},mode=1777",
            "/home/agent": f"{tmpfs},uid={uid},gid={gid},mode=0700",
        },
        "mounts": [
            Mount("/run/agcluster", str(spec.folders.sockets), type="bind"),
            Mount("/workspace", str(spec.folders.workspace), type="bind"),
        ],
        "init": True,
        "pids_limit": limits.pids,
        "mem_limit": f"{limits.memory_mb}m",
        "memswap_limit": f"{limits.memory_mb}m",
        "nano_cpus": int(limits.cpus * 1e9),
        # When the machine itself runs out of memory, an agent goes before Redis or a worker.
        "oom_score_adj": 500,
        "ulimits": [
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="fsize", soft=limits.file_mb << 20, hard=limits.file_mb << 20),
            Ulimit(name="nofile", soft=_OPEN_FILES_MAX, hard=_OPEN_FILES_MAX),
        ],
        "log_config": LogConfig(type="local", config={"max-size": "1m", "max-file": "2"}),
    }


def engine_address() -> str:
    """Where the engine of this machine listens."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def container_name(cluster: str, conversation: ConversationKey) -> str:
    """One name per conversation, so that the engine refuses a second container for it."""
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", f"agc-{cluster}-{conversation}")


def refuse_unfit_engine(info: Json, runtime: str) -> None:
    """Raises `NoIsolation` for an engine whose containers cannot share folders and uids with us."""
    options = " ".join(info.get("SecurityOptions") or ())
    if info.get("OSType") != "linux" or "Docker Desktop" in str(info.get("OperatingSystem")):
        raise NoIsolation(
            "this engine runs in a virtual machine, and Unix sockets in shared folders do not "
            "cross into it. Use `docker compose up`: there the worker runs beside its agents"
        )
    if "name=rootless" in options or "name=userns" in options:
        raise NoIsolation(
            "this engine maps user ids (rootless or userns-remap), so that an agent could not open "
            "its own workspace. Use an engine without it, or AGCLUSTER_ISOLATION=bubblewrap"
        )
    if runtime not in (info.get("Runtimes") or {}):
        raise NoIsolation(f"the engine has no runtime {runtime!r} (AGCLUSTER_CONTAINER_RUNTIME)")


class ImageStore:
    """The engine's images, for a command line process: blocking."""

    def __init__(self, engine: str | None = None, *, timeout_s: float = 1800.0) -> None:
        self._engine = _Engine(engine or engine_address(), timeout_s)

    def sources(self, tag: str) -> str | None:
        """What the image was built from (empty: not by us); None when there is no such image."""
        with _translated(f"look for image {tag}"):
            return self._engine.image_sources(tag)

    def building(
        self, context: bytes, *, tag: str, dockerfile: str, base: str, sources: str
    ) -> Iterator[str]:
        """Build and tag an image; gives the builder's lines as it goes.

        Raises `ContainerFailed` with its last words.
        """
        with _translated(f"build image {tag}"):
            answers = self._engine.client.api.build(
                fileobj=BytesIO(context),
                custom_context=True,
                dockerfile=dockerfile,
                tag=tag,
                buildargs={"BASE_IMAGE": base},
                labels={SOURCES_LABEL: sources},
                decode=True,
                rm=True,
                forcerm=True,
            )
            for answer in answers:
                if fault := answer.get("error"):
                    raise ContainerFailed(f"building {tag} failed: {str(fault).strip()}")
                yield from _lines(answer)

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()


class _NameTaken(ContainerFailed):
    """Another container holds the conversation's name."""


class _Engine:
    """The engine's answers as our types. Blocking, usable from several threads."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: docker.DockerClient | None = None

    @property
    def client(self) -> docker.DockerClient:
        """Made at the first call: it asks the engine for its version."""
        self._knock()
        with self._lock:
            if self._client is None:
                self._client = docker.DockerClient(
                    base_url=self._address,
                    timeout=math.ceil(self._timeout_s),
                    max_pool_size=_THREADS + 2,
                )
            return self._client

    def _knock(self) -> None:
        """Raises `OSError` when nobody listens.

        The SDK would say so in a paragraph, and leak a socket each time.
        """
        if self._address.startswith(_LOCAL):
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(self._timeout_s)
                line.connect(self._address.removeprefix(_LOCAL))

    def info(self) -> Json:
        return dict(self.client.api.info())

    def image_sources(self, tag: str) -> str | None:
        try:
            return str(self.client.images.get(tag).labels.get(SOURCES_LABEL, ""))
        except ImageNotFound:
            return None

    def create(self, name: str, body: Json) -> ContainerId:
        # Not the SDK's higher `create`: it adds the proxies of ~/.docker/config.json, which may
        # hold a password, to the agent's environment.
        try:
            api: Any = self.client.api  # its types leave out this method's
            made = api.create_container_from_config(body, name)
        except ImageNotFound as error:
            raise EngineFailed(
                f"image {body['Image']} is missing: build it with `python -m worker.images`"
            ) from error
        except APIError as error:
            if error.status_code == 409:
                raise _NameTaken(f"the name {name} is taken") from error
            raise
        return ContainerId(str(made["Id"]))

    def start(self, id: ContainerId) -> None:
        self.client.api.start(id)

    def stop(self, id: ContainerId, grace_s: float) -> None:
        with _gone_is_fine():
            self.client.api.stop(id, timeout=math.ceil(grace_s))

    def remove(self, id: ContainerId) -> None:
        with _gone_is_fine():
            self.client.api.remove_container(id, v=True, force=True)

    def find(self, name: str) -> Json | None:
        try:
            return dict(self.client.api.inspect_container(name))
        except NotFound:
            return None

    def list(self, labels: dict[str, str]) -> Sequence[Container]:
        # The plain list: the SDK's own inspects each container and trips over one just removed.
        found = self.client.api.containers(all=True, filters={"label": _pairs(labels)})
        return [c for c in map(_container, found) if c is not None]

    def exit(self, id: ContainerId, conversation: ConversationKey) -> ContainerExit:
        """How a container ended; without a code when it is gone already."""
        found = self.find(id)
        if found is None:
            return ContainerExit(id, conversation, None, False)
        state = found["State"]
        code = int(state["ExitCode"])
        return ContainerExit(id, conversation, code, bool(state.get("OOMKilled")) or code == KILLED)

    def events(self, labels: dict[str, str]) -> Any:
        """The engine's stream of our containers' starts and ends."""
        return self.client.events(
            decode=True,
            filters={
                "type": "container",
                "event": ["start", "die"],
                "label": _pairs(labels),
            },
        )

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()


@dataclass
class _Watch:
    """One thread that follows the engine's events, and compares after each gap.

    Every container that is known to run is in `_known`; one that is not running any more is told
    once and leaves it. So nothing is lost while the engine restarts, and nothing is told twice.
    """

    _engine: _Engine
    _labels: dict[str, str]
    _tell: Callable[[ContainerExit], None]
    _known: dict[ContainerId, ConversationKey] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _events: Any = None

    def expect(self, containers: Iterable[Container]) -> None:
        """These run, or will in a moment."""
        with self._lock:
            self._known.update((c.id, c.conversation) for c in containers)

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="docker-events", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        # Wakes the thread out of its read.
        self._let_go()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self._events = self._engine.events(self._labels)
                self._compare()
                for event in self._events:
                    self._take(event)
                    if self._stopped.is_set():
                        return
            except (DockerException, RequestException, OSError, AgClusterError) as error:
                if not self._stopped.is_set():
                    log.warning("container events broke off", extra=fields(error=error))
            except Exception:
                # The thread must outlive anything the engine answers, or no exit is seen again.
                log.exception("container event not understood")
            finally:
                self._let_go()
            self._stopped.wait(_REWATCH_S)

    def _let_go(self) -> None:
        """Close a stream that has ended or is to end."""
        if self._events is not None:
            # Closing one that is closed already is what the SDK does not foresee.
            with contextlib.suppress(DockerException, OSError, AttributeError, ValueError):
                self._events.close()

    def _compare(self) -> None:
        running = {c.id: c.conversation for c in self._engine.list(self._labels) if c.is_running}
        with self._lock:
            missing = self._known.keys() - running.keys()
            self._known |= running
        for id in missing:
            if self._has_ended(id):
                self._end(id, None)

    def _has_ended(self, id: ContainerId) -> bool:
        """Gone or ended; one that is created and not yet started is neither."""
        found = self._engine.find(id)
        return found is None or found["State"]["Status"] in ("exited", "dead", "removing")

    def _take(self, event: Json) -> None:
        id = ContainerId(event["Actor"]["ID"])
        attributes = event["Actor"].get("Attributes") or {}
        if event["Action"] == "start":
            with self._lock:
                self._known[id] = ConversationKey(attributes.get(LABEL + "conv", ""))
        elif event["Action"] == "die":
            code = attributes.get("exitCode")
            self._end(id, None if code is None else int(code))

    def _end(self, id: ContainerId, code: int | None) -> None:
        with self._lock:
            conversation = self._known.pop(id, None)
        if conversation is None:
            return
        ended = self._engine.exit(id, conversation)
        if ended.exit_code is None and code is not None:
            ended = ContainerExit(id, conversation, code, code == KILLED)
        self._tell(ended)


def _container(found: Json) -> Container | None:
    labels = found.get("Labels") or {}
    try:
        return Container(
            ContainerId(found["Id"]),
            ConversationKey(labels[LABEL + "conv"]),
            Fence(int(labels[LABEL + "fence"])),
            found["State"] in ("running", "paused"),
            int(labels[LABEL + "created"]),
        )
    except (KeyError, ValueError):
        log.warning("container with broken labels", extra=fields(container=found.get("Id")))
        return None


def _pairs(labels: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in labels.items()]


def _lines(answer: Json) -> Iterator[str]:
    text = answer.get("stream") or answer.get("status") or ""
    return (line.rstrip() for line in str(text).splitlines() if line.strip())


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except NotFound:
        return
    except APIError as error:
        # 409 while another call removes the same container.
        if error.status_code != 409:
            raise


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Docker's and HTTP's exceptions as ours."""
    try:
        yield
    except (DockerException, RequestException, OSError) as error:
        explanation = getattr(error, "explanation", None) or error
        hint = ""
        if isinstance(error, PermissionError):
            hint = ". This user may not use the engine: usermod -aG docker, then log in again"
        if "bind source path does not exist" in str(explanation):
            hint = (
                ". The engine does not see the worker's data_dir: a worker in a container needs it "
                "mounted at the same path as on the host"
            )
        raise EngineFailed(f"cannot {what}: {explanation}{hint}") from error
