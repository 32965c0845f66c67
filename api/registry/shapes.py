"""The JSON of the registry: of MCP servers in the public registry's form, of agents beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

OFFICIAL = "io.modelcontextprotocol.registry/official"


class RegistryMeta(BaseModel):
    """What the registry says of a version."""

    status: Literal["active", "deprecated", "deleted"]
    statusMessage: str | None = None
    statusChangedAt: str
    publishedAt: str
    updatedAt: str
    isLatest: bool


class _Listed(BaseModel):
    meta: dict[str, RegistryMeta] = Field(alias="_meta")


class RegistryServer(_Listed):
    """One version of an MCP server: its `server.json` as it was published."""

    server: dict[str, Any]


class AgentVersion(BaseModel):
    """One version of an agent. Its release has the rest, signed."""

    name: str
    version: str
    description: str
    publisher: str
    digest: str
    """SHA-256 of the release."""
    bytes: int


class RegistryAgent(_Listed):
    """One version of an agent, and what the registry says of it."""

    agent: AgentVersion


class PageMeta(BaseModel):
    """Of a page."""

    count: int
    nextCursor: str | None = None


class RegistryServerList(BaseModel):
    """A page of MCP servers."""

    servers: list[RegistryServer]
    metadata: PageMeta


class RegistryAgentList(BaseModel):
    """A page of agents."""

    agents: list[RegistryAgent]
    metadata: PageMeta
