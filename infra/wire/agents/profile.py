"""An agent's profile: what an operator says about one of their agents. People call it an agent.

It is data, checked when it is read (`infra.profiles`). A version of it is known by its digest, kept
in Redis under that, and travels with a turn as an `AgentRef`. It contains no secret.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from infra.wire.agents.container import ContainerLimits, ImageName
from infra.wire.agents.mcp import McpServer, ServerName
from infra.wire.agents.part import (
    DIGEST_CHARS,
    AgentName,
    FolderPath,
    Line,
    ModelName,
    ProfilePart,
    Prompt,
    ToolName,
    VariableName,
)
from infra.wire.agents.permissions import Permissions
from infra.wire.agents.sub_agent import SubAgent
from infra.wire.base import decode
from infra.wire.errors import MalformedMessage
from infra.wire.files.shown import ArtifactDisplay
from infra.wire.options import Effort
from infra.wire.text.foreign import foreign

SUB_AGENTS_MAX = 32
MCP_SERVERS_MAX = 32
DELEGATES_MAX = 16
SKILLS_MAX = 64


class SystemPrompt(ProfilePart):
    """What the agent is told before anything else."""

    text: Prompt
    mode: Literal["replace", "append"] = "replace"
    """`replace`: instead of Claude Code's own prompt. `append`: behind it."""


class AgentProfile(ProfilePart):
    """One agent. A field that is absent leaves the deployment's setting."""

    description: Line = ""
    """One line for the people who pick it."""
    icon: Line | None = None
    """A picture's URL, or an emoji, for clients that show one."""
    url: Line | None = None
    """A page about it."""
    system_prompt: SystemPrompt | None = None
    models: tuple[ModelName, ...] = ()
    """The models it may use; empty for all that the deployment offers."""
    model: ModelName | None = None
    """The model if the client names none; None for the first of `models`, or the deployment's
    first."""
    tools: tuple[ToolName, ...] | None = None
    max_turns: Annotated[int, Field(gt=0, le=10_000)] | None = None
    """Maximum number of model calls in one turn."""
    effort: Effort | None = None
    """How much its models think, if the client does not say."""
    client_tools: Literal["auto", "on", "off"] | None = None
    """Whether it may call the functions that clients send as `tools`."""
    structured_output: Literal["auto", "off"] | None = None
    """Whether clients may ask for an answer in a form (`response_format`)."""
    tool_display: Literal["off", "reasoning", "text", "inline", "lines"] | None = None
    """Where answers show its tools and its thinking, if the client does not say."""
    sub_agents: Annotated[Mapping[AgentName, SubAgent], Field(max_length=SUB_AGENTS_MAX)] = {}
    delegates: Annotated[tuple[AgentName, ...], Field(max_length=DELEGATES_MAX)] = ()
    """Agents that it may call with its tool `delegate`. Each works in a conversation of its own,
    under its own profile, with the caller's key and within the caller's time and budget."""
    mcp_servers: Annotated[Mapping[ServerName, McpServer], Field(max_length=MCP_SERVERS_MAX)] = {}
    """MCP servers whose tools it has. Its tools reach them whatever the egress policy says, as long
    as its deployment has egress at all."""
    artifact_display: ArtifactDisplay | None = None
    """How answers show the files that it made: `links`, `annotations` or `off`."""
    skills: Annotated[tuple[FolderPath, ...], Field(max_length=SKILLS_MAX)] = ()
    """Folders of the agents' folder, each with a `SKILL.md`: what it can look up how to do."""
    workspace: FolderPath | None = None
    """A folder of the agents' folder. Its files are in a new workspace."""
    bundle: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The archive of these files, by its digest. Made when a profile is read; nobody writes it."""
    image: ImageName | None = None
    """The image of its containers, one of `AGCLUSTER_AGENT_IMAGES`. With Docker only."""
    container: ContainerLimits | None = None
    """What its containers may use."""
    workspace_max_mb: Annotated[int, Field(gt=0, le=2**20)] | None = None
    """Size of a workspace in which it works; never more than the deployment's."""
    questions: bool | None = None
    """It may ask its user in the middle of the work: its turn ends with the question, and goes on
    with what they say next."""
    permissions: Permissions = Permissions()
    """What it may do without asking its user, and what it asks for."""
    environment: Mapping[VariableName, Line] = {}
    """Variables that its tools see. No secrets: the agent can read them."""
    egress_profile: str | None = None
    """The egress profile that its tools go out by. A client cannot choose another one."""
    idle_timeout_s: Annotated[float, Field(gt=0, le=30 * 86400.0)] | None = None
    """Its container is stopped after this long without a turn."""
    turn_deadline_s: Annotated[float, Field(gt=0, le=7 * 86400.0)] | None = None
    """Maximum duration of a turn; never longer than the deployment's."""
    turn_budget_tokens: Annotated[int, Field(gt=0, le=2**50)] | None = None
    """Tokens that one turn may spend; never more than the deployment's."""
    tenants: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{20}$")], ...] = ()
    """The tenants that may see and use it; empty for all. `agcluster usage list` shows tenants."""

    @property
    def callers_secrets(self) -> frozenset[str]:
        """The names of the secrets that its MCP servers want of its caller."""
        return frozenset().union(*(one.callers_secrets for one in self.mcp_servers.values()))

    @property
    def digest(self) -> str:
        """What this version of it is known by: 32 hex digits of its contents."""
        told = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(told.encode()).hexdigest()[:DIGEST_CHARS]

    @property
    def skill_names(self) -> tuple[str, ...]:
        """The names of its skills: those of their folders."""
        return tuple(path.rpartition("/")[2] for path in self.skills)

    def is_for(self, tenant: str) -> bool:
        """Whether this tenant may see and use it."""
        return not self.tenants or tenant in self.tenants


_PROFILE: TypeAdapter[AgentProfile] = TypeAdapter(AgentProfile)


def decode_profile(raw: bytes | str) -> AgentProfile:
    """A profile as it was kept: with the fields that say something, and no others.

    Raises `MalformedMessage`, also for a field that this version does not know. Others of its
    fields restrict what the agent may do, so half a profile would be an agent that nobody wanted.
    """
    profile: AgentProfile = decode(_PROFILE, raw)
    if unknown := next(_unknown(profile, json.loads(raw)), None):
        raise MalformedMessage(f"a profile with {foreign(unknown)}, which is of a later version")
    return profile


def _unknown(part: object, told: object) -> Iterator[str]:
    """The names of what was left out when that part was read."""
    if isinstance(part, ProfilePart) and isinstance(told, dict):
        known = type(part).model_fields
        yield from (name for name in told if name not in known)
        for name in known.keys() & told.keys():
            yield from _unknown(getattr(part, name), told[name])
    elif isinstance(part, Mapping) and isinstance(told, dict):
        for name, one in part.items():
            yield from _unknown(one, told.get(name))
    elif isinstance(part, tuple) and isinstance(told, list):
        for one, its in zip(part, told, strict=False):
            yield from _unknown(one, its)
