"""The versions of agents' profiles that a conversation works with."""

from __future__ import annotations

import logging

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.profiles import ProfileStore
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
from infra.wire.errors import AgClusterError
from worker.waiting import until_store_answers

log = logging.getLogger(__name__)


class ProfileGone(AgClusterError):
    """The version of a profile that a turn names is not kept."""


class AgentVersions:
    """Finds the profile of each turn.

    A conversation keeps the version of an agent with which it began until its worker leaves it,
    which is when it has been idle for long enough: an operator's edit must not change an agent in
    the middle of its work. Another agent is another matter.
    """

    def __init__(self, profiles: ProfileStore, clock: Clock) -> None:
        self._profiles = profiles
        self._clock = clock
        self._name = ""
        self._profile: AgentProfile | None = None

    async def of(self, agent: AgentRef | None) -> AgentProfile | None:
        """The profile to work with; None for the usual agent.

        Keeps trying while Redis is unavailable. Raises `ProfileGone`, `MalformedMessage` and
        `LeaseLost`.
        """
        if agent is None:
            self._name, self._profile = "", None
            return None
        if self._profile is None or self._name != agent.name:
            found = await until_store_answers(lambda: self._profiles.get(agent.digest), self._clock)
            if found is None:
                log.error("agent's version not kept", extra=fields(agent=agent.name))
                raise ProfileGone(f"version {agent.digest} of agent {agent.name} is not kept")
            self._name, self._profile = agent.name, found
        return self._profile
