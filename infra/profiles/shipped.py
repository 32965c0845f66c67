"""The agents that ship with the product, as they are in a clone and in an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import infra
from infra.profiles.read import AgentsRead, read_folder, read_with_bundles
from infra.wire.agents.profile import AgentProfile

SHIPPED = Path(infra.__file__).parent / "agents"


@cache
def shipped_agents() -> Mapping[str, AgentProfile]:
    """Their profiles by name. Read once, because they change with the product only."""
    return read_folder(SHIPPED)


def read_agents(folder: Path) -> AgentsRead:
    """The agents of an operator's folder, which may extend those that ship.

    Raises `ProfileRefused` and `OSError`.
    """
    return read_with_bundles(folder, parents=SHIPPED)
