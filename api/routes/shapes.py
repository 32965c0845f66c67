"""The JSON of models, health and errors, for callers and for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Model(BaseModel):
    """A model or an agent that can be requested."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "anthropic"
    description: str | None = None
    """What an agent is for."""
    icon: str | None = None
    url: str | None = None


class ModelList(BaseModel):
    """All models and aliases."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The format of every error."""

    error: ErrorObject


class Health(BaseModel):
    """The state of the deployment."""

    status: Literal["healthy", "degraded", "unhealthy", "draining"]
    version: str
    agent_image: str
    workers: int
    redis: Literal["ok", "unavailable"]
