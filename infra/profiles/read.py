"""Reads profiles from YAML: inheritance, files of prompts, validation.

`extends` names another profile of the same folder: mappings are merged, anything else replaces what
was inherited. `system_prompt` may be text, or a mapping with `text` or `file`, and `mode`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from infra.profiles.bundles import read_bundle
from infra.profiles.places import Path, PlacedYaml, ProfileRefused, YamlPlace, read_document
from infra.wire.agents.bundle import SKILLS, BundleRefused, bundle_digest
from infra.wire.agents.part import AGENT_NAME, PROMPT_MAX_CHARS, is_reserved
from infra.wire.agents.permissions import RULES_MAX
from infra.wire.agents.profile import AgentProfile
from infra.wire.mcp.secrets import CALLERS_SECRETS_MAX, bad_reference

SUFFIX = ".yaml"
FILE_MAX_BYTES = 512 * 1024
PROFILES_MAX = 500
BUNDLES_MAX_BYTES = 64 * 1024 * 1024
"""Of all bundles of a folder together: a replica has them in memory."""
EXTENDS_MAX = 8
"""Longest chain of profiles that extend one another."""

MADE = frozenset({"bundle"})
"""Fields that nobody writes."""
_ADVICE: Mapping[Path, str] = {
    ("packages",): "is not a field of an agent: build an image with them, and name it as `image`; "
    "nothing is installed while an agent starts (docs/reference/agents.md)",
}
"""What to do instead of a field that people expect."""
_FIELD_OF_FAULTS: Mapping[str, str] = {
    "extra_forbidden": "is not a field of an agent",
    "missing": "is missing",
}


@dataclass(frozen=True)
class AgentsRead:
    """What a folder has."""

    profiles: Mapping[str, AgentProfile] = field(default_factory=dict)
    """By name."""
    bundles: Mapping[str, bytes] = field(default_factory=dict)
    """The archives that the profiles name, by their digests."""


def read_folder(folder: FilePath, *, parents: FilePath | None = None) -> Mapping[str, AgentProfile]:
    """All profiles of a folder by name. See `read_with_bundles`."""
    return read_with_bundles(folder, parents=parents).profiles


def read_with_bundles(folder: FilePath, *, parents: FilePath | None = None) -> AgentsRead:
    """All profiles of a folder with their bundles; none if there is no folder.

    They may extend those of the folder `parents` as well, which names no further files.
    Raises `ProfileRefused` with the faults of all files, and `OSError`.
    """
    own, faults = _documents(folder)
    documents = _with_parents(own, _documents(parents)[0] if parents else {})
    profiles: dict[str, AgentProfile] = {}
    bundles: dict[str, bytes] = {}
    for name in sorted(own):
        try:
            profiles[name] = _profile(name, documents, folder, bundles)
        except ProfileRefused as refused:
            faults.extend(refused.faults)
    if sum(map(len, bundles.values())) > BUNDLES_MAX_BYTES:
        faults.append(
            f"{folder}: skills and workspaces of more than {BUNDLES_MAX_BYTES // 1024**2} MiB"
        )
    if faults:
        # An inherited fault is found once for each heir.
        raise ProfileRefused(list(dict.fromkeys(faults)))
    return AgentsRead(profiles, bundles)


def read_flat(folder: FilePath, name: str, *, parents: FilePath | None = None) -> dict[str, Any]:
    """One profile as data, with what it inherits and the text of its prompt.

    Raises `ProfileRefused`, also for faults of the folder's other profiles, and `OSError`.
    """
    if name not in read_folder(folder, parents=parents):
        raise ProfileRefused([f"{folder}: there is no agent {name}"])
    own, _ = _documents(folder)
    documents = _with_parents(own, _documents(parents)[0] if parents else {})
    return _laid_out(name, documents, folder).data


def _documents(folder: FilePath) -> tuple[dict[str, PlacedYaml], list[str]]:
    documents: dict[str, PlacedYaml] = {}
    faults: list[str] = []
    for path in _files(folder):
        file = str(path)
        if not re.fullmatch(AGENT_NAME, path.stem):
            faults.append(
                f"{file}: an agent's name has small letters, digits, and `.`, `_`, `-` between them"
            )
            continue
        try:
            documents[path.stem] = read_document(_text(path), file)
        except ProfileRefused as refused:
            faults.extend(refused.faults)
    return documents, faults


def _with_parents(
    own: Mapping[str, PlacedYaml], parents: Mapping[str, PlacedYaml]
) -> dict[str, PlacedYaml]:
    """All by name. One that extends its own name means the parent that it replaces."""
    documents = {**parents, **own}
    for name, document in own.items():
        if document.data.get("extends") == name and name in parents:
            replaced = f"{name} as it ships"  # No file can have this name.
            documents[replaced] = parents[name]
            document.data["extends"] = replaced
    return documents


def _files(folder: FilePath) -> list[FilePath]:
    if not folder.is_dir():
        return []
    found = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    if len(found) > PROFILES_MAX:
        raise ProfileRefused([f"{folder}: more than {PROFILES_MAX} agents"])
    return found


def _text(path: FilePath) -> str:
    with path.open("rb") as file:
        raw = file.read(FILE_MAX_BYTES + 1)
    if len(raw) > FILE_MAX_BYTES:
        raise ProfileRefused([f"{path}: larger than {FILE_MAX_BYTES // 1024} KiB"])
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ProfileRefused([f"{path}: not UTF-8"]) from None


def _laid_out(name: str, documents: Mapping[str, PlacedYaml], folder: FilePath) -> PlacedYaml:
    """The document with what it inherits, and texts instead of files."""
    document = _inherited(name, documents)
    _read_prompt(document, folder)
    return document


def _profile(
    name: str,
    documents: Mapping[str, PlacedYaml],
    folder: FilePath,
    bundles: dict[str, bytes],
) -> AgentProfile:
    document = _laid_out(name, documents, folder)
    for made in MADE & document.data.keys():
        raise ProfileRefused([f"{document.place_of((made,))}: {made}: is not a field of an agent"])
    try:
        profile = AgentProfile.model_validate(document.data, extra="forbid")
    except ValidationError as error:
        raise ProfileRefused([_told(fault, document) for fault in _faults(error)]) from None
    faults = [*_other_faults(profile, document), *_unknown(profile, document, documents)]
    if faults:
        raise ProfileRefused(faults)
    return _with_bundle(profile, document, folder, bundles)


def _with_bundle(
    profile: AgentProfile, document: PlacedYaml, folder: FilePath, bundles: dict[str, bytes]
) -> AgentProfile:
    """With the digest of its files, if it has any. Their archive goes to `bundles`."""
    if not profile.skills and profile.workspace is None:
        return profile
    try:
        raw = read_bundle(folder, skills=profile.skills, workspace=profile.workspace)
    except BundleRefused as refused:
        path = _field_of(str(refused), profile)
        told = ".".join(map(str, path))
        raise ProfileRefused([f"{document.place_of(path)}: {told}: {refused}"]) from None
    digest = bundle_digest(raw)
    bundles[digest] = raw
    return profile.model_copy(update={"bundle": digest})


def _field_of(fault: str, profile: AgentProfile) -> Path:
    """The field that names the folder which a fault begins with."""
    for number, path in enumerate(profile.skills):
        packed = f"{SKILLS}/{path.rpartition('/')[2]}"
        if fault.startswith((f"{path}:", f"{path}/", f"{packed}:", f"{packed}/")):
            return "skills", number
    return ("workspace",) if profile.workspace is not None else ("skills",)


def _inherited(name: str, documents: Mapping[str, PlacedYaml]) -> PlacedYaml:
    """The document, laid over those that it extends."""
    chain = [name]
    while (parent := documents[chain[-1]].data.get("extends")) is not None:
        place = documents[chain[-1]].place_of(("extends",))
        if not isinstance(parent, str) or parent not in documents:
            raise ProfileRefused([f"{place}: extends: there is no agent {parent!r} here"])
        if parent in chain:
            raise ProfileRefused([f"{place}: extends: {' -> '.join([*chain, parent])} is a circle"])
        chain.append(parent)
        if len(chain) > EXTENDS_MAX:
            raise ProfileRefused([f"{place}: extends: more than {EXTENDS_MAX} agents in a row"])
    whole = PlacedYaml({}, {})
    for one in reversed(chain):
        _lay_over(whole.data, _own(documents[one].data))
        whole.places |= documents[one].places
    return whole


def _own(data: Mapping[str, Any]) -> dict[str, Any]:
    """What one file says itself, its prompt in the whole form."""
    said = {key: value for key, value in data.items() if key != "extends"}
    if isinstance(prompt := said.get("system_prompt"), str):
        said["system_prompt"] = {"text": prompt}
    return said


_INSTEAD = {"text": "file", "file": "text"}
"""Of a prompt: what one of them replaces."""


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if key == "system_prompt" and isinstance(value, dict) and isinstance(below.get(key), dict):
            given = {_INSTEAD.get(part) for part in value}
            below[key] = {part: told for part, told in below[key].items() if part not in given}
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            below[key] = dict(below[key])
            _lay_over(below[key], value)
        else:
            below[key] = value


def _read_prompt(document: PlacedYaml, folder: FilePath) -> None:
    """Replace a file by its text."""
    given = document.data.get("system_prompt")
    if not isinstance(given, dict) or "file" not in given:
        return
    place = document.place_of(("system_prompt", "file"))
    if "text" in given:
        raise ProfileRefused([f"{place}: system_prompt: give `text` or `file`, not both"])
    rest = {key: value for key, value in given.items() if key != "file"}
    text = _prompt_text(given["file"], folder, place)
    document.data["system_prompt"] = {"text": text, **rest}


def _prompt_text(file: object, folder: FilePath, place: YamlPlace) -> str:
    told = f"{place}: system_prompt.file"
    if not isinstance(file, str) or not file or "\0" in file:
        raise ProfileRefused([f"{told}: must be a file's name"])
    base = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(base, file))
    if os.path.commonpath([base, path]) != base:
        raise ProfileRefused([f"{told}: {file} is outside the agents' folder"])
    try:
        text = _text(FilePath(path))
    except OSError as error:
        raise ProfileRefused([f"{told}: {file}: {error.strerror}"]) from None
    if not text.strip() or len(text) > PROMPT_MAX_CHARS:
        raise ProfileRefused(
            [f"{told}: {file}: must have text, of at most {PROMPT_MAX_CHARS:,} characters"]
        )
    return text


def _faults(error: ValidationError) -> Iterable[ErrorDetails]:
    return error.errors(include_url=False, include_input=False)


def _told(fault: ErrorDetails, document: PlacedYaml) -> str:
    path: Path = fault["loc"]
    what = _ADVICE.get(path) or _FIELD_OF_FAULTS.get(fault["type"], fault["msg"])
    return f"{document.place_of(path)}: {'.'.join(map(str, path))}: {what}"


def _other_faults(profile: AgentProfile, document: PlacedYaml) -> Iterable[str]:
    """Faults that concern several fields."""
    for name in profile.environment:
        if is_reserved(name):
            place = document.place_of(("environment", name))
            yield f"{place}: environment.{name}: this variable is the service's own"
    yield from _mcp_faults(profile, document)
    if profile.permissions.has_too_many_denied:
        place = document.place_of(("permissions", "deny"))
        yield f"{place}: permissions.deny: more than {RULES_MAX} rules"
    if profile.model is not None and profile.models and profile.model not in profile.models:
        yield f"{document.place_of(('model',))}: model: is not one of `models`"


def _mcp_faults(profile: AgentProfile, document: PlacedYaml) -> Iterable[str]:
    for name, server in profile.mcp_servers.items():
        told = f"{document.place_of(('mcp_servers', name))}: mcp_servers.{name}"
        if (server.url is None) is (server.command is None):
            yield f"{told}: give `url` or `command`, one of them"
        elif server.url is None and server.headers:
            yield f"{told}: `headers` are for a server with `url`"
        elif server.command is None and (server.args or server.env):
            yield f"{told}: `args` and `env` are for a server with `command`"
        yield from (
            f"{document.place_of(('mcp_servers', name, 'env', variable))}: "
            f"mcp_servers.{name}.env.{variable}: this variable is the service's own"
            for variable in server.env
            if is_reserved(variable)
        )
        for header, value in server.headers.items():
            if (bad := bad_reference(value)) is not None:
                place = document.place_of(("mcp_servers", name, "headers", header))
                yield (
                    f"{place}: mcp_servers.{name}.headers.{header}: `{bad}` names no secret: "
                    "`${NAME}` is one of the gateway's, `${caller:NAME}` one of the caller's, in "
                    "capital letters"
                )
    if len(profile.callers_secrets) > CALLERS_SECRETS_MAX:
        place = document.place_of(("mcp_servers",))
        yield f"{place}: mcp_servers: more than {CALLERS_SECRETS_MAX} secrets of the caller's"


def _unknown(
    profile: AgentProfile, document: PlacedYaml, documents: Mapping[str, PlacedYaml]
) -> Iterable[str]:
    """Agents that it may call and that are not there."""
    for name in profile.delegates:
        if name not in documents:
            place = document.place_of(("delegates",))
            yield f"{place}: delegates: there is no agent {name!r} here"
