"""An agent's profile: what an operator says about one of their agents. People call it an agent.

It is data, checked when it is read (`infra.profiles`). A version of it is known by its digest, kept
in Redis under that, and travels with a turn as an `AgentRef`. It contains no secret.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from infra.wire.base import Message, decode

PROMPT_MAX_CHARS = 100_000
"""Longest system prompt of a profile, and of a sub-agent."""
SUB_AGENTS_MAX = 32
DIGEST_CHARS = 32

_NAME = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
_OURS = re.compile(
    r"(?i)(?:AGCLUSTER|ANTHROPIC|CLAUDE|DISABLE_|API_|PYTHON|LD_|NODE_|BASH_ENV$|ENV$|HOME$|PATH$|"
    r"(?:HTTPS?|NO|ALL)_PROXY$)"
)

_URL = r"^https?://[^\s/@?#]+(?:/[^\s?#]*)?(?:\?[^\s#]*)?$"
_HEADER_VALUE = r"^[\x20-\x7e]{0,4000}$"

Prompt = Annotated[str, Field(min_length=1, max_length=PROMPT_MAX_CHARS)]
Line = Annotated[str, Field(max_length=1000)]
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,100}$")]
ServerName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


def is_reserved(variable: str) -> bool:
    """Whether an environment variable is the product's own, or changes how programs start."""
    return _OURS.match(variable) is not None


class ProfilePart(BaseModel):
    """A part of a profile.

    A field that it does not know is ignored here, because versions of programs run side by side
    during a deploy. Where a person wrote it, it is an error (`infra.profiles`).
    """

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class SubAgent(ProfilePart):
    """An agent that this agent may give tasks to, in the same container."""

    description: Annotated[str, Field(min_length=1, max_length=4000)]
    """When to use it. The agent reads this."""
    prompt: Prompt
    """Its system prompt."""
    tools: tuple[ToolName, ...] | None = None
    """Its tools; None for those of the agent."""
    model: ModelName | None = None
    """A model, or `haiku`, `sonnet`, `opus`; None for the agent's."""
    max_turns: Annotated[int, Field(gt=0, le=10_000)] | None = None
    """Maximum number of its model calls for one task."""


class McpServer(ProfilePart):
    """An MCP server that is reached over HTTP.

    The agent knows only its name. The gateway knows its address and adds the headers, so no secret
    enters the container.
    """

    url: Annotated[str, StringConstraints(pattern=_URL, max_length=2000)]
    """Its address, as in its own documentation."""
    headers: Mapping[HeaderName, Annotated[str, StringConstraints(pattern=_HEADER_VALUE)]] = {}
    """Headers of each request. `${NAME}` stands for a secret of `AGCLUSTER_MCP_SECRETS`."""


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
    client_tools: Literal["auto", "on", "off"] | None = None
    """Whether it may call the functions that clients send as `tools`."""
    sub_agents: Mapping[Annotated[str, StringConstraints(pattern=_NAME)], SubAgent] = {}
    mcp_servers: Mapping[ServerName, McpServer] = {}
    """MCP servers whose tools it has. Its tools reach them whatever the egress policy says, as long
    as its deployment has egress at all."""
    questions: bool | None = None
    """It may ask its user in the middle of the work: its turn ends with the question, and goes on
    with what they say next."""
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
    def digest(self) -> str:
        """What this version of it is known by: 32 hex digits of its contents."""
        told = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(told.encode()).hexdigest()[:DIGEST_CHARS]

    def is_for(self, tenant: str) -> bool:
        """Whether this tenant may see and use it."""
        return not self.tenants or tenant in self.tenants


AgentName = Annotated[str, StringConstraints(pattern=_NAME)]
"""Small letters, digits, and `.`, `_`, `-` between them."""


class AgentRef(Message):
    """The agent of a turn: its name, and the version of its profile."""

    name: AgentName
    digest: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{DIGEST_CHARS}}}$")]


_PROFILE: TypeAdapter[AgentProfile] = TypeAdapter(AgentProfile)
NAME = re.compile(_NAME)


def decode_profile(raw: bytes) -> AgentProfile:
    """A profile as it was kept. Raises `MalformedMessage`."""
    profile: AgentProfile = decode(_PROFILE, raw)
    return profile
