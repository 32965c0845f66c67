"""Every setting, by section: from the environment and `.env`, read once in a program's `main`."""

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
from infra.runtime.settings.types import (
    ClientToolsUse,
    EgressPolicy,
    EgressProfile,
    Isolation,
    QueueDisplay,
    Section,
    ToldModel,
    ToolDisplay,
)
from infra.runtime.settings.whole import (
    PREFIX,
    SECTIONS,
    Settings,
    SettingsRefused,
    as_environment,
    load_settings,
)

__all__ = [
    "PREFIX",
    "SECTIONS",
    "AgentDefaults",
    "AnswerSettings",
    "ClientToolsUse",
    "ClusterSettings",
    "ConversationSettings",
    "EdgeSettings",
    "EgressPolicy",
    "EgressProfile",
    "EgressSettings",
    "FileSettings",
    "FileStoreSettings",
    "InstalledAgentSettings",
    "Isolation",
    "IsolationSettings",
    "LimitSettings",
    "LogSettings",
    "MetricsSettings",
    "ModelCallSettings",
    "ModelSettings",
    "PoolSettings",
    "QueueDisplay",
    "RedisSettings",
    "RegistrySettings",
    "Section",
    "Settings",
    "SettingsRefused",
    "SideSettings",
    "ToldModel",
    "ToolDisplay",
    "as_environment",
    "load_settings",
]
