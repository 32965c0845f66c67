"""The form of the container that a turn runs in: what its agent's profile says about it. Pure."""

from __future__ import annotations

from infra.wire.agents.container import ContainerLimits
from infra.wire.agents.profile import AgentProfile
from worker.hosts.form import USUAL_FORM, ContainerForm


def container_form(profile: AgentProfile | None) -> ContainerForm:
    """`profile` is that of the turn's agent; None for the usual one."""
    if profile is None:
        return USUAL_FORM
    limits = profile.container or ContainerLimits()
    return ContainerForm(
        bundle=profile.bundle,
        image=profile.image,
        memory_mb=limits.memory_mb,
        cpus=limits.cpus,
        pids=limits.pids,
        file_mb=profile.workspace_max_mb,
    )
