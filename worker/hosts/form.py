"""What an agent's profile decides about its container. It is fixed when the container is created.

A conversation whose next turn wants another form gets a new container. The form of a running one is
on it as a text (`ContainerForm.text`), so that a worker that adopts it knows.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from infra.wire.agents.container import Cpus, ImageName, MemoryMb, Pids

TEXT_MAX_CHARS = 2000


class ContainerForm(BaseModel):
    """The form of one container. None in a field: as the deployment has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The bundle that it sees, by its digest."""
    image: ImageName | None = None
    """Its image: one that the host's operator allows."""
    memory_mb: MemoryMb | None = None
    cpus: Cpus | None = None
    """From its start on: it gets no more meanwhile."""
    pids: Pids | None = None
    file_mb: Annotated[int, Field(gt=0, le=2**20)] | None = None
    """Maximum size of any single file."""

    @property
    def text(self) -> str:
        """It as a label; empty for the usual form."""
        return self.model_dump_json(exclude_none=True) if self != USUAL_FORM else ""

    @classmethod
    def of_text(cls, text: str) -> ContainerForm:
        """The form that is written so. Raises `ValueError`."""
        if not text:
            return USUAL_FORM
        if len(text) > TEXT_MAX_CHARS:
            raise ValueError("a form of this length is not ours")
        try:
            form = cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError("not a container's form") from error
        # Two spellings of a form would be two forms to anybody who compares them.
        if form.text != text:
            raise ValueError("not how a container's form is written")
        return form


USUAL_FORM = ContainerForm()
