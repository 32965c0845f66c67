"""The sub-agents of an agent's profile. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from infra.wire.agents.part import ModelName, ProfilePart, Prompt, ToolName


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
