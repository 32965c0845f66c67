"""The JSON of models, health and errors, for callers and for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelArchitecture(BaseModel):
    """What a model takes and gives, as OpenRouter says it."""

    input_modalities: list[str]
    output_modalities: list[str] = ["text"]


class ModelProvider(BaseModel):
    """How much a model reads and writes, as OpenRouter says it."""

    context_length: int
    max_completion_tokens: int | None = None


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
    context_length: int | None = None
    """Tokens that the model reads; the same under the names of three kinds of clients."""
    context_window: int | None = None
    max_model_len: int | None = None
    max_output_tokens: int | None = None
    """Tokens that one message of the model has at most, if the upstream says so."""
    architecture: ModelArchitecture | None = None
    top_provider: ModelProvider | None = None
    supported_parameters: list[str] | None = None


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
    upstream: str
    """The model's service: `ok`, `unknown`, or its host and why it does not answer."""
