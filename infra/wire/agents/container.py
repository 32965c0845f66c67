"""What an agent's profile says about its containers. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from infra.wire.agents.part import ProfilePart

ImageName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]{0,254}$", max_length=255)
]
MemoryMb = Annotated[int, Field(ge=256, le=2**20)]
Cpus = Annotated[float, Field(ge=0.05, le=1024, allow_inf_nan=False)]
Pids = Annotated[int, Field(ge=32, le=2**20)]


class ContainerLimits(ProfilePart):
    """What one container may use; never more than the deployment allows."""

    memory_mb: MemoryMb | None = None
    """Memory; swap is not added."""
    cpus: Cpus | None = None
    """CPUs, from its start on."""
    pids: Pids | None = None
    """Processes and threads."""
