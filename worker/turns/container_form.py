"""The form of the container that a turn runs in: what its agent's profile says about it. Pure."""

from __future__ import annotations

from infra.wire.agents.profile import AgentProfile
from worker.hosts.form import USUAL_FORM, ContainerForm


def container_form(profile: AgentProfile | None) -> ContainerForm:
    """`profile` is that of the turn's agent; None for the usual one."""
    if profile is None:
        return USUAL_FORM
    return ContainerForm(bundle=profile.bundle)
