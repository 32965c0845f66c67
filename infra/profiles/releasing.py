"""What a release of an agent has: its profile with what it inherits, and the files it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.profiles.read import read_flat
from infra.profiles.shipped import SHIPPED, read_agents
from infra.releases.refused import ReleaseRefused
from infra.releases.release import PROFILE_FILE, ReleasedContent
from infra.wire.agents.bundle import SKILLS, WORKSPACE, unpack
from infra.wire.agents.profile import AgentProfile


def contents_of(folder: Path, name: str) -> tuple[dict[str, ReleasedContent], str]:
    """The files of an agent's release, and its description.

    Raises `ProfileRefused`, `ReleaseRefused` and `OSError`.
    """
    data = read_flat(folder, name, parents=SHIPPED)
    read = read_agents(folder)
    meant = read.profiles[name].model_copy(update=_told_elsewhere(read.profiles[name]))
    contents: dict[str, ReleasedContent] = {}
    if meant.bundle is not None:
        for path, file in unpack(read.bundles[meant.bundle]).items():
            contents[path] = ReleasedContent(file.content, file.is_executable)
    for field in ("tenants", "skills", "workspace"):
        data.pop(field, None)
    if meant.skills:
        data["skills"] = list(meant.skills)
    if meant.workspace is not None:
        data["workspace"] = meant.workspace
    contents[PROFILE_FILE] = ReleasedContent(_yaml(data))
    return contents, meant.description


def require_says(profile: AgentProfile, folder: Path, name: str) -> None:
    """Raises `ReleaseRefused` unless a profile, read out of a release, says what the folder does.

    Raises `ProfileRefused` and `OSError`.
    """
    own = read_agents(folder).profiles[name]
    if profile != own.model_copy(update=_told_elsewhere(own)):
        raise ReleaseRefused(f"{name} cannot be released: there it would say something else")


def _told_elsewhere(profile: AgentProfile) -> dict[str, object]:
    """What of a profile is said otherwise in a release: folders are where a bundle has them, and
    tenants are the deployment's to say."""
    return {
        "tenants": (),
        "skills": tuple(f"{SKILLS}/{skill}" for skill in profile.skill_names),
        "workspace": None if profile.workspace is None else WORKSPACE,
    }


def _yaml(data: Mapping[str, Any]) -> bytes:
    text: str = yaml.safe_dump(data, sort_keys=True, allow_unicode=True, width=100)
    return text.encode()
