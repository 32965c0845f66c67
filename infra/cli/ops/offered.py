"""The agents that a deployment with these settings offers, as its replicas see them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from infra.profiles.installed import InstalledFolder
from infra.profiles.shipped import read_agents, shipped_agents
from infra.releases.keys import TrustedPublishers
from infra.releases.policy import policy_of
from infra.runtime.settings import Settings
from infra.wire.agents.profile import AgentProfile


def installed_folder(settings: Settings, folder: Path) -> InstalledFolder:
    """The installed agents of an agents' folder, held to the settings."""
    return InstalledFolder(
        folder,
        publishers=TrustedPublishers(settings.agent_publishers),
        policy=policy_of(settings, agents=settings, models=settings),
    )


def offered_agents(settings: Settings, folder: Path) -> Mapping[str, AgentProfile]:
    """All of them by name: an installed one stands before one that ships, an own one before both.

    Raises `ProfileRefused` and `OSError`.
    """
    shipped = shipped_agents() if settings.shipped_agents else {}
    installed = installed_folder(settings, folder).read().as_read.profiles
    return {**shipped, **installed, **read_agents(folder).profiles}
