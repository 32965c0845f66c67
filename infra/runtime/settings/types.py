"""The types of settings, and how the environment spells them."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from infra.wire.agents.permissions import RULES_MAX, Permissions


class Section(BaseModel):
    """Settings of one subject. Durations end in `_s`, sizes in `_mb` or `_bytes`.

    A part of a program takes the sections that it reads, not `Settings`, so its signature shows
    what it depends on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: ClassVar[str] = ""
    """The heading in `.env.example` and docs/reference/settings.md."""


class ToolDisplay(StrEnum):
    """Where the agent's tool activity and thinking are shown."""

    OFF = "off"
    REASONING = "reasoning"
    TEXT = "text"
    INLINE = "inline"
    """Inside the text, where it happened, in the form that Open WebUI folds."""
    LINES = "lines"
    """Tools as lines of the text, where they ran; thinking as reasoning."""


class ClientToolsUse(StrEnum):
    """Whether an agent may call the functions that a client sends."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class QueueDisplay(StrEnum):
    """Where a waiting stream shows its place in the queue."""

    OFF = "off"
    COMMENT = "comment"
    REASONING = "reasoning"


class Isolation(StrEnum):
    """What agents run in."""

    AUTO = "auto"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"


class EgressPolicy(StrEnum):
    """Which hosts an agent's tools may reach."""

    NONE = "none"
    ALLOWLIST = "allowlist"
    PUBLIC = "public"


class EgressProfile(BaseModel):
    """A named egress policy for the conversations that ask for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: EgressPolicy
    allow: tuple[str, ...] = ()


class ToldModel(BaseModel):
    """What an operator says of a model. None: what the upstream says, or the usual."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_tokens: Annotated[int, Field(gt=0, le=2**40)] | None = None
    output_tokens: Annotated[int, Field(gt=0, le=2**40)] | None = None
    images: bool | None = None
    documents: bool | None = None


def _split(value: Any) -> Any:
    """`a, b` or a JSON list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _pairs(value: Any) -> Any:
    """`a=b, c=d` or a JSON object."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    return dict(part.split("=", 1) for part in _split(value))


def _object(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _permissions(value: Any) -> Any:
    """What no agent would obey is an error here, as in a profile."""
    told = _object(value)
    if not isinstance(told, dict):
        return told
    read = Permissions.model_validate(told, extra="forbid")
    if read.has_too_many_denied:
        raise ValueError(f"deny: more than {RULES_MAX} rules")
    return read


def _named(profiles: dict[str, EgressProfile]) -> dict[str, EgressProfile]:
    for name in profiles:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            raise ValueError(
                f"an egress profile's name is made of letters, digits and _.- ({name!r})"
            )
    return profiles


def _compiled(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return patterns


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Patterns = Annotated[Names, AfterValidator(_compiled)]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], BeforeValidator(_split)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_split)]
EgressProfiles = Annotated[
    dict[str, EgressProfile], BeforeValidator(_object), AfterValidator(_named)
]
PermissionRules = Annotated[Permissions, BeforeValidator(_permissions)]
ToldModels = Annotated[dict[str, ToldModel], BeforeValidator(_object)]
Aliases = Annotated[dict[str, str], BeforeValidator(_pairs)]
