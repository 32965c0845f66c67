"""Publishers and releases for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from infra.files.open import open_file_store
from infra.profiles.installed import InstalledFolder
from infra.registry.catalogue import Catalogue
from infra.releases.keys import PublisherKey, TrustedPublishers
from infra.releases.policy import InstalledPolicy, policy_of
from infra.releases.release import Release, ReleasedContent, sign_release
from infra.runtime.clock import SystemClock
from infra.runtime.settings import Settings
from tests.fakes.running_api import RunningApi

PROFILE = "description: Reads patches.\nsystem_prompt: You review.\ntools: [Read, Grep]\n"
ACME, OTHER = PublisherKey.new(), PublisherKey.new()
PUBLISHERS = TrustedPublishers({"acme": ACME.public})


def policy(**settings: object) -> InstalledPolicy:
    """The policy of a deployment with these settings."""
    whole = Settings.model_validate(settings)
    return policy_of(whole, agents=whole, models=whole)


def installed_in(folder: Path, **settings: object) -> InstalledFolder:
    """Where agents are installed in this agents' folder."""
    return InstalledFolder(folder, publishers=PUBLISHERS, policy=policy(**settings))


def catalogue_of(api: RunningApi) -> Catalogue:
    """What an operator's command has: the store of that replica, by its settings."""
    settings = api.deps.settings
    return Catalogue(open_file_store(settings, data_dir=settings.data_dir), SystemClock())


def release(
    profile: str = PROFILE,
    *,
    name: str = "acme/reviewer",
    version: str = "1.0.0",
    files: Mapping[str, bytes] | None = None,
    key: PublisherKey = ACME,
) -> Release:
    """A signed one."""
    contents = {"agent.yaml": ReleasedContent(profile.encode())}
    contents |= {path: ReleasedContent(raw) for path, raw in (files or {}).items()}
    return sign_release(
        name=name, version=version, description="Reads patches.", contents=contents, key=key
    )
