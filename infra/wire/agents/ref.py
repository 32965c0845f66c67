"""Which agent, and which version of its profile, a turn is for. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from infra.wire.agents.part import DIGEST_CHARS, AgentName
from infra.wire.base import Message


class AgentRef(Message):
    """The agent of a turn: its name, and the version of its profile."""

    name: AgentName
    digest: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{DIGEST_CHARS}}}$")]
