"""What all parts of a profile share: their base, and the words that they are made of. Pure."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PROMPT_MAX_CHARS = 100_000
"""Longest system prompt of a profile, and of a sub-agent."""
DIGEST_CHARS = 32

AGENT_NAME = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
_OURS = re.compile(
    r"(?i)(?:AGCLUSTER|ANTHROPIC|CLAUDE|DISABLE_|API_|PYTHON|LD_|NODE_|BASH_ENV$|ENV$|HOME$|PATH$|"
    r"(?:HTTPS?|NO|ALL)_PROXY$)"
)

AgentName = Annotated[str, StringConstraints(pattern=AGENT_NAME)]
"""Small letters, digits, and `.`, `_`, `-` between them."""
Prompt = Annotated[str, Field(min_length=1, max_length=PROMPT_MAX_CHARS)]
FOLDER_PATH = r"^[^/\\\x00-\x1f][^\\\x00-\x1f]{0,199}$"
FolderPath = Annotated[str, StringConstraints(pattern=FOLDER_PATH)]
"""A folder of the agents' folder, from there."""
Line = Annotated[str, Field(max_length=1000)]
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


def is_reserved(variable: str) -> bool:
    """Whether an environment variable is the product's own, or changes how programs start."""
    return _OURS.match(variable) is not None


class ProfilePart(BaseModel):
    """A part of a profile.

    A field that it does not know is ignored here, because parts of it travel to agents of other
    versions, too. Where a person wrote it, it is an error (`infra.profiles`), and where a worker
    reads the whole of it (`decode_profile`).
    """

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)
