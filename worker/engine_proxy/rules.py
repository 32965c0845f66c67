"""Decides what a worker may ask of the engine, from one request. Pure, except for a look at the
folders.

Nothing that a worker sends is passed on. For a new container, the proxy takes conversation, fence,
time and form from the request, builds the body again from its own settings, refuses the request if
anything differs, and sends its own body. Filters of lists and events are compared and rebuilt in
the same way.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from infra.runtime.settings import ClusterSettings, IsolationSettings
from infra.wire.errors import AgentImageRefused
from infra.wire.ids import ConversationKey, Fence, HostId
from worker.engine_proxy.mounts import EngineCallRefused, first_exchanged, held_folders
from worker.hosts.docker.engine import FORM_LABEL, LABEL
from worker.hosts.docker.host import (
    DockerOptions,
    container_name,
    create_body,
    host_labels,
    nano_cpus,
)
from worker.hosts.folders.folders import Folders
from worker.hosts.form import USUAL_FORM, ContainerForm
from worker.hosts.host import ContainerSpec, Limits, SessionFolders
from worker.hosts.pool.records import SpareRecords

Json = Any
"""Decoded JSON from others: its shape is not guaranteed."""

VERSION_MIN = (1, 41)
"""Older versions read other fields, some from the body of a start."""

_PATH = re.compile(r"(?:/v(1)\.(\d{2}))?((?:/[A-Za-z0-9_][A-Za-z0-9_.:-]*)+)")
_CONVERSATION = re.compile(r"[0-9a-f]{24}")
_NUMBER = re.compile(r"[0-9]{1,19}")
_RENAMED = 2
"""Folders of a spare that a claim renames, one after the other."""
_INFO = ("OSType", "OperatingSystem", "SecurityOptions", "Runtimes")
_EVENTS = {"type": ["container"], "event": ["start", "die"]}


@dataclass(frozen=True)
class Target:
    """A request's path: API version (None if absent) and the path below it."""

    version: str | None
    path: str


@dataclass(frozen=True)
class OwnContainer:
    """One of our containers: the key for which it was created, and its form."""

    conversation: str
    form: ContainerForm = USUAL_FORM


@dataclass(frozen=True)
class Rules:
    """The containers of one cluster on one host."""

    options: DockerOptions
    host: HostId
    limits: Limits
    data_dir: Path

    @classmethod
    def of(cls, settings: IsolationSettings, *, cluster: ClusterSettings, engine: str) -> Rules:
        """The rules for a worker with these settings."""
        return cls(
            DockerOptions(
                image=settings.agent_image,
                own_images=frozenset(settings.agent_images),
                cluster=cluster.cluster,
                runtime=settings.container_runtime,
                engine=engine,
            ),
            cluster.host_name,
            Limits(
                cpus=settings.container_cpus,
                start_cpus=settings.container_start_cpus,
                memory_mb=settings.container_memory_mb,
                pids=settings.container_pids,
                tmp_mb=settings.container_tmp_mb,
                file_mb=settings.workspace_max_mb,
            ),
            cluster.data_dir,
        )

    def create(self, name: str, given: bytes, *, version: str) -> Json:
        """The body that creates a container. Raises `EngineCallRefused`."""
        body = _strict_json(given)
        labels = body.get("Labels") if isinstance(body, dict) else None
        labels = labels if isinstance(labels, dict) else {}
        ours = _own_container(labels)
        conversation = ConversationKey(ours.conversation)
        folders = Folders(self.data_dir)
        spec = ContainerSpec(
            conversation,
            Fence(int(_label(labels, "fence", _NUMBER))),
            folders.formed(folders.of(conversation), ours.form),
            self.limits.within(ours.form),
            egress=False,
            form=ours.form,
        )
        created_ms = int(_label(labels, "created", _NUMBER))
        try:
            made = create_body(self.options, self.host, spec, created_ms, version=version)
        except AgentImageRefused as error:
            raise EngineCallRefused(str(error)) from error
        made = json.loads(json.dumps(made))
        if differs := first_difference(body, made):
            raise EngineCallRefused(f"{differs} of a container is not what this proxy is set to")
        if name != container_name(self.options.cluster, conversation):
            raise EngineCallRefused("the name is not that of the conversation")
        # Reported now rather than at the start, which checks and compares again.
        with self.held_folders(ours):
            return made

    @contextmanager
    def held_folders(self, ours: OwnContainer) -> Iterator[Mapping[str, int]]:
        """The folders to mount, held open. Raises `EngineCallRefused` if they must not be
        mounted."""
        with ExitStack() as opened:
            yield self._opened(ours, opened)

    def _opened(self, ours: OwnContainer, opened: ExitStack) -> Mapping[str, int]:
        folders = self._folders(ours)
        for _ in range(_RENAMED):
            try:
                return opened.enter_context(held_folders(folders))
            except EngineCallRefused:
                earlier, folders = folders, self._folders(ours)
                if folders == earlier:
                    raise
                # The spare was claimed between our look and now.
        return opened.enter_context(held_folders(folders))

    def first_exchanged(self, ours: OwnContainer, held: Mapping[str, int]) -> str | None:
        """The first held folder that was replaced by another one. Raises `EngineCallRefused`."""
        with self.held_folders(ours) as again:
            return first_exchanged(held, again)

    def workspace(self, ours: OwnContainer) -> Path:
        """The path of its files."""
        return self._folders(ours).workspace

    def _folders(self, ours: OwnContainer) -> SessionFolders:
        """Where the folders of one of our containers are by now.

        Those of a spare are renamed when it is claimed, one after the other.
        """
        key, folders = ConversationKey(ours.conversation), Folders(self.data_dir)
        first = folders.formed(folders.of(key), ours.form)
        record = SpareRecords(self.data_dir).get(key)
        if record is None or record.claimed_by is None:
            return first
        if not _CONVERSATION.fullmatch(record.claimed_by):
            raise EngineCallRefused("a spare was claimed by what is no conversation")
        later = folders.of(record.claimed_by)
        return SessionFolders(
            sockets=_in_place(first.sockets, later.sockets),
            workspace=_in_place(first.workspace, later.workspace),
            bundle=first.bundle,
        )

    def own_container(self, inspected: Json) -> OwnContainer:
        """Which of our containers this is. Raises `EngineCallRefused`."""
        labels = (inspected.get("Config") or {}).get("Labels") or {}
        if not self._labels.items() <= labels.items():
            raise EngineCallRefused("that container is not one of this cluster on this host")
        return _own_container(labels)

    def list_query(self, query: str) -> dict[str, str]:
        """The query for a list of our containers."""
        asked = _query(query, {"limit", "all", "size", "trunc_cmd", "filters"})
        return {"all": "1", "filters": self._filters(asked, {})}

    @property
    def running(self) -> dict[str, str]:
        """The query for a list of our running containers."""
        labels = [f"{name}={value}" for name, value in self._labels.items()]
        return {"filters": json.dumps({"label": labels})}

    def event_query(self, query: str) -> dict[str, str]:
        """The query for starts and ends of our containers."""
        return {"filters": self._filters(_query(query, {"filters"}), _EVENTS)}

    def name_of(self, query: str) -> str:
        """The name that a container must have."""
        return _query(query, {"name"}).get("name", "")

    def stop_query(self, query: str) -> dict[str, str]:
        """The query of a stop, with its grace time in seconds."""
        grace_s = _query(query, {"t"}).get("t", "")
        if not re.fullmatch(r"\d{1,3}", grace_s):
            raise EngineCallRefused("a stop needs a grace in seconds")
        return {"t": grace_s}

    def update(self, given: bytes) -> Json:
        """The body that limits a container that has started. Raises `EngineCallRefused`."""
        wanted = {"NanoCpus": nano_cpus(self.limits.cpus)}
        if differs := first_difference(_strict_json(given), wanted):
            raise EngineCallRefused(f"{differs} of an update is not what this proxy is set to")
        return wanted

    def remove_query(self, query: str) -> dict[str, str]:
        """The query of a removal: by force, with its anonymous volumes."""
        asked = _query(query, {"v", "link", "force"})
        if asked.get("link", "False") not in ("False", "0"):
            raise EngineCallRefused("a removal is of a container, not of a link")
        return {"v": "1", "force": "1"}

    @property
    def _labels(self) -> dict[str, str]:
        return host_labels(self.options.cluster, self.host)

    def _filters(self, asked: Mapping[str, str], others: Mapping[str, list[str]]) -> str:
        wanted = {**others, "label": [f"{name}={value}" for name, value in self._labels.items()]}
        given = _strict_json(asked.get("filters", "null").encode())
        if differs := first_difference(given, wanted):
            raise EngineCallRefused(f"{differs} of the filters is not that of this host's cluster")
        return json.dumps(wanted)


def _in_place(first: Path, later: Path) -> Path:
    return first if os.path.lexists(first) else later


def target_of(path: str) -> Target:
    """Parse a request's path. Raises `EngineCallRefused` for any spelling except the plain one."""
    found = _PATH.fullmatch(path)
    if found is None or ".." in path:
        raise EngineCallRefused("the path is not one that a worker uses")
    major, minor, below = found.groups()
    if major is None:
        return Target(None, below)
    if (int(major), int(minor)) < VERSION_MIN:
        raise EngineCallRefused(f"version {major}.{minor} of the engine's API is too old")
    return Target(f"{major}.{minor}", below)


def told_of_engine(info: Json) -> Json:
    """The part of the engine's `info` that a worker needs."""
    return {name: info[name] for name in _INFO if name in info}


def first_difference(given: Json, wanted: Json, at: str = "") -> str | None:
    """The path of the first difference between two JSON values; None if they are equal, including
    types."""
    where = at.lstrip(".") or "the body"
    if type(given) is not type(wanted):
        return where
    if isinstance(wanted, dict):
        if extra := given.keys() ^ wanted.keys():
            return f"{at}.{min(extra)}".lstrip(".")
        pairs = ((f"{at}.{name}", given[name], value) for name, value in wanted.items())
    elif isinstance(wanted, list) and len(given) == len(wanted):
        pairs = ((f"{at}[{i}]", given[i], value) for i, value in enumerate(wanted))
    else:
        return None if given == wanted else where
    return next((found for at, a, b in pairs if (found := first_difference(a, b, at))), None)


def _query(query: str, known: set[str]) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise EngineCallRefused("the query is malformed") from error
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)) or not known.issuperset(names):
        raise EngineCallRefused("the query is not one that a worker uses")
    return dict(pairs)


def _label(labels: Mapping[str, Json], name: str, form: re.Pattern[str]) -> str:
    value = labels.get(LABEL + name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise EngineCallRefused(f"the label {LABEL + name} is missing or malformed")
    return value


def _own_container(labels: Mapping[str, Json]) -> OwnContainer:
    text = labels.get(FORM_LABEL, "")
    try:
        form = ContainerForm.of_text(text if isinstance(text, str) else "-")
    except ValueError as error:
        raise EngineCallRefused(f"the label {FORM_LABEL}: {error}") from error
    return OwnContainer(_label(labels, "conv", _CONVERSATION), form)


def _strict_json(text: bytes) -> Json:
    """Raises `EngineCallRefused` for what two parsers could read differently."""
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise EngineCallRefused("the body is not plain JSON") from error


def _without_doubles(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name comes twice")
    return dict(pairs)
