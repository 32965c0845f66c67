"""The Docker engine's answers as our types, for `worker.hosts.docker.host`.

Blocking; the callers use threads.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import docker
from docker.errors import (
    APIError,
    DockerException,
    ImageNotFound,
    NotFound,
    create_api_error_from_http_exception,
)
from requests.exceptions import HTTPError, RequestException

from infra.runtime.logs import fields
from infra.wire.errors import ContainerFailed, EngineFailed, NoIsolation
from infra.wire.ids import ConversationKey, Fence
from worker.hosts.form import ContainerForm
from worker.hosts.host import Container, ContainerExit, ContainerId

LABEL = "agcluster."
_REMOVAL_POLL_S = 0.1
FORM_LABEL = LABEL + "form"
"""The form of a container, if it is not the usual one (`worker.hosts.form`)."""
SOURCES_LABEL = LABEL + "sources"
KILLED = 137
"""128 + SIGKILL: the kernel's out-of-memory killer, or somebody's `kill -9`."""
UNLINKED, UNLINKED_BYTES = "/agcluster-unlinked", "bytes"
"""A call that only our engine proxy has, below a container, and the field in its answer."""
LOOK_TIMEOUT_S = 5
"""It has a thread of those that start and stop containers: it must not hold it for long."""
CALLS_MAX = 8
"""Concurrent calls."""
LOCAL = "unix://"
"""The prefix of an engine's address on this machine."""

# The engine's answers are JSON without types, read only here and in this package.
Json = dict[str, Any]

log = logging.getLogger(__name__)


def engine_address() -> str:
    """The address at which this machine's engine listens."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


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


class NameTaken(ContainerFailed):
    """Another container has the conversation's name."""


class DockerEngine:
    """The engine's answers as our types. Blocking; can be used from several threads."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: docker.DockerClient | None = None

    @property
    def client(self) -> docker.DockerClient:
        """Created on first use, because it asks the engine for its version."""
        self._knock()
        with self._lock:
            if self._client is None:
                self._client = docker.DockerClient(
                    base_url=self._address,
                    timeout=math.ceil(self._timeout_s),
                    max_pool_size=CALLS_MAX + 2,
                )
            return self._client

    def _knock(self) -> None:
        """Raises `OSError` if nobody listens.

        The SDK would raise a long error and leak a socket each time.
        """
        if self._address.startswith(LOCAL):
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(self._timeout_s)
                line.connect(self._address.removeprefix(LOCAL))

    def info(self) -> Json:
        return dict(self.client.api.info())

    def image_sources(self, tag: str) -> str | None:
        try:
            return str(self.client.images.get(tag).labels.get(SOURCES_LABEL, ""))
        except ImageNotFound:
            return None

    def create(self, name: str, body: Json) -> ContainerId:
        # Not the SDK's high-level `create`, which adds the proxies of ~/.docker/config.json to the
        # agent's environment; they may contain a password.
        try:
            api: Any = self.client.api  # its types leave out this method's
            made = api.create_container_from_config(body, name)
        except ImageNotFound as error:
            raise EngineFailed(
                f"image {body['Image']} is missing: build it with `agcluster build-image`"
            ) from error
        except APIError as error:
            if error.status_code == 409:
                raise NameTaken(f"the name {name} is taken") from error
            raise
        return ContainerId(str(made["Id"]))

    def start(self, id: ContainerId) -> None:
        self.client.api.start(id)

    def limit_cpus(self, id: ContainerId, nano_cpus: int) -> None:
        # Not the SDK's `update_container`: it knows other units only, and the engine refuses those
        # for a container that was created with this one.
        api: Any = self.client.api
        url = f"{api.base_url}/v{api.api_version}/containers/{id}/update"
        answer = api.post(url, json={"NanoCpus": nano_cpus}, timeout=self._timeout_s)
        with _gone_is_fine():
            try:
                answer.raise_for_status()
            except HTTPError as error:
                create_api_error_from_http_exception(error)

    def stop(self, id: ContainerId, grace_s: float) -> None:
        with _gone_is_fine():
            self.client.api.stop(id, timeout=math.ceil(grace_s))

    def remove(self, id: ContainerId) -> None:
        """Remove a container and return when it is gone. While another call removes it, the engine
        answers 409, which does not say how that will end."""
        give_up_s = time.monotonic() + self._timeout_s / 2
        while True:
            try:
                return self.client.api.remove_container(id, v=True, force=True)
            except NotFound:
                return None
            except APIError as error:
                if error.status_code != 409 or time.monotonic() > give_up_s:
                    raise
            time.sleep(_REMOVAL_POLL_S)

    def find(self, name: str) -> Json | None:
        try:
            return dict(self.client.api.inspect_container(name))
        except NotFound:
            return None

    def list(self, labels: dict[str, str]) -> Sequence[Container]:
        # The low-level list: the SDK's own inspects each container and fails on one just removed.
        found = self.client.api.containers(all=True, filters={"label": _pairs(labels)})
        return [c for c in map(_container, found) if c is not None]

    def exit(self, id: ContainerId, conversation: ConversationKey) -> ContainerExit:
        """How a container ended; without a code if it is already gone."""
        found = self.find(id)
        if found is None:
            return ContainerExit(id, conversation, None, False)
        state = found["State"]
        code = int(state["ExitCode"])
        return ContainerExit(id, conversation, code, bool(state.get("OOMKilled")) or code == KILLED)

    def pid_of(self, id: ContainerId) -> int:
        """The pid of its first process, as the engine's machine counts; 0 if none runs."""
        state = (self.find(id) or {}).get("State") or {}
        return int(state.get("Pid") or 0) if state.get("Running") else 0

    def told_unlinked_bytes(self, id: ContainerId) -> int | None:
        """The bytes of its unlinked open files, as our engine proxy sees them. None if we talk to
        the engine itself, which has no such call."""
        api = self.client.api
        url = f"{api.base_url}/v{api.api_version}/containers/{id}{UNLINKED}"
        answer = api.get(url, timeout=LOOK_TIMEOUT_S)
        if answer.status_code == 404:
            return None
        try:
            answer.raise_for_status()
        except HTTPError as error:
            create_api_error_from_http_exception(error)
        return int(answer.json()[UNLINKED_BYTES])

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


class ImageStore:
    """The engine's images, for a command line process. Blocking."""

    def __init__(self, engine: str | None = None, *, timeout_s: float = 1800.0) -> None:
        self._engine = DockerEngine(engine or engine_address(), timeout_s)

    def sources(self, tag: str) -> str | None:
        """The digest of what the image was built from (empty: not built by us); None if there is no
        such image."""
        with translated(f"look for image {tag}"):
            return self._engine.image_sources(tag)

    def building(
        self, context: bytes, *, tag: str, dockerfile: str, base: str, sources: str
    ) -> Iterator[str]:
        """Build and tag an image; yields the builder's lines.

        Raises `ContainerFailed` with the last lines.
        """
        with translated(f"build image {tag}"):
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
        """Close the connection to the engine."""
        self._engine.close()


def _container(found: Json) -> Container | None:
    labels = found.get("Labels") or {}
    try:
        return Container(
            ContainerId(found["Id"]),
            ConversationKey(labels[LABEL + "conv"]),
            Fence(int(labels[LABEL + "fence"])),
            found["State"] in ("running", "paused"),
            int(labels[LABEL + "created"]),
            ContainerForm.of_text(labels.get(FORM_LABEL, "")),
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
        # 409 while another call removes the same container; `remove` waits for it.
        if error.status_code != 409:
            raise


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Translates the exceptions of Docker and HTTP to ours."""
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
