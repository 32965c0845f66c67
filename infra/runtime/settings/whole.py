"""All sections as one frozen model, read once in a program's `main`.

All programs share one model, so that one `.env` serves a whole deployment. An unknown name with our
prefix is an error, because a typo must not go unnoticed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError, model_validator

from infra.runtime.settings.agents import AgentDefaults, IsolationSettings, PoolSettings
from infra.runtime.settings.chats import AnswerSettings, ConversationSettings, SideSettings
from infra.runtime.settings.cluster import (
    ClusterSettings,
    LogSettings,
    MetricsSettings,
    RedisSettings,
)
from infra.runtime.settings.edge import EdgeSettings
from infra.runtime.settings.egress import EgressSettings
from infra.runtime.settings.files import FileSettings, FileStoreSettings
from infra.runtime.settings.limits import LimitSettings, ModelCallSettings
from infra.runtime.settings.models import ModelSettings
from infra.runtime.settings.registry import InstalledAgentSettings, RegistrySettings
from infra.runtime.settings.types import Section
from infra.wire.errors import AgClusterError

PREFIX = "AGCLUSTER_"
_SHOWN_CHARS = 60

SECTIONS: tuple[type[Section], ...] = (
    EdgeSettings,
    ConversationSettings,
    AnswerSettings,
    LimitSettings,
    ModelSettings,
    ModelCallSettings,
    SideSettings,
    AgentDefaults,
    IsolationSettings,
    PoolSettings,
    RegistrySettings,
    InstalledAgentSettings,
    EgressSettings,
    FileSettings,
    FileStoreSettings,
    RedisSettings,
    ClusterSettings,
    LogSettings,
    MetricsSettings,
)
"""In the order in which the documents list them."""


class SettingsRefused(AgClusterError):
    """The environment has unknown or invalid settings; the message names each one."""


class Settings(
    EdgeSettings,
    ConversationSettings,
    AnswerSettings,
    LimitSettings,
    ModelSettings,
    ModelCallSettings,
    SideSettings,
    AgentDefaults,
    IsolationSettings,
    PoolSettings,
    RegistrySettings,
    InstalledAgentSettings,
    EgressSettings,
    FileSettings,
    FileStoreSettings,
    RedisSettings,
    ClusterSettings,
    LogSettings,
    MetricsSettings,
):
    """All settings of a deployment."""

    @model_validator(mode="after")
    def _conversations_outlive_their_turns(self) -> Settings:
        needed_s = self.queue_timeout_s + self.turn_deadline_s + 60
        if self.retention_s < needed_s:
            raise ValueError(
                "AGCLUSTER_RETENTION_S must be at least AGCLUSTER_QUEUE_TIMEOUT_S + "
                f"AGCLUSTER_TURN_DEADLINE_S + 60 ({needed_s:g})"
            )
        return self


def load_settings(
    environ: Mapping[str, str] | None = None, *, env_file: Path | None = Path(".env")
) -> Settings:
    """Settings from `environ` (default: the process's), which override those of `env_file`.

    Raises `SettingsRefused`.
    """
    environ = os.environ if environ is None else environ
    from_file = dotenv_values(env_file) if env_file and env_file.is_file() else {}
    merged = {k: v for k, v in from_file.items() if v is not None} | dict(environ)
    values = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in merged.items()
        if name.startswith(PREFIX) and value != ""
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsRefused(_explain(error, values)) from None


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables for a child process. Contains secrets in the clear."""
    out: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        text = json.dumps(value, default=_plain) if isinstance(value, tuple | dict) else str(value)
        out[PREFIX + name.upper()] = text
    return out


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _explain(error: ValidationError, values: Mapping[str, str]) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        place = [str(part) for part in fault["loc"]]
        name = PREFIX + ".".join(place).upper()
        if fault["type"] == "extra_forbidden":
            what = f"is not a setting{_meant(place[0])}"
        else:
            what = fault["msg"] + (_given(place[0], values) if place else "")
        lines.append(f"{name}: {what}" if place else what)
    return "; ".join(lines)


def _meant(name: str) -> str:
    """The setting that somebody may have meant."""
    found = get_close_matches(name, Settings.model_fields, n=1, cutoff=0.7)
    return f". Did you mean {PREFIX}{found[0].upper()}?" if found else ""


def _given(name: str, values: Mapping[str, str]) -> str:
    """The value that was refused, unless it is a secret, and the default."""
    field = Settings.model_fields.get(name)
    if field is None or name not in values or "SecretStr" in str(field.annotation):
        return ""
    default = f" (default {field.default})" if isinstance(field.default, int | float | str) else ""
    return f", not {values[name][:_SHOWN_CHARS]!r}{default}"
