"""The deployment's agents, as a caller sees them: which there are, and which one a `model` means.

Every replica reads the folder of profiles itself and keeps each version in Redis under its digest,
where workers find it. A turn names that digest, so replicas that read the folder at different
moments do not disturb one another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from api.access.catalog import ModelCatalog
from api.http.auth import Caller
from infra.profiles.folder import ProfileFolder
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.store.profiles import ProfileStore
from infra.wire.agents.delegation import (
    DESCRIPTION_MAX_CHARS,
    REACHED_MAX,
    Delegate,
    Delegation,
)
from infra.wire.agents.profile import AgentProfile
from infra.wire.agents.ref import AgentRef
from infra.wire.errors import StoreUnavailable

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
KEPT_ANEW_S = 60.0
"""A version that is asked for is kept anew when its last time is this long ago: Redis may have lost
it since, in a failover or altogether."""


@dataclass(frozen=True)
class ChosenAgent:
    """What a request's `model` means."""

    model: str
    """The real id of a model."""
    agent: AgentRef | None = None
    profile: AgentProfile | None = None
    """The agent's, if one was named."""
    delegation: Delegation | None = None
    """The agents that it may call."""


class AgentCatalog:
    """The agents of one deployment, beside its models."""

    def __init__(
        self,
        folder: ProfileFolder,
        *,
        models: ModelCatalog,
        profiles: ProfileStore,
        default_model: str,
        keep_s: float,
        delegation_depth: int,
        clock: Clock,
    ) -> None:
        """`keep_s`: how long a version outlives the replicas that offer it. `delegation_depth`: how
        many agents may stand behind one another when agents call agents."""
        self._folder = folder
        self._models = models
        self._profiles = profiles
        self._default_model = default_model
        self._keep_s = keep_s
        self._depth = delegation_depth
        self._clock = clock
        self._kept_s: dict[str, float] = {}

    async def run(self) -> None:
        """Look at the folder now and then, until cancelled."""
        while True:
            await asyncio.to_thread(self._folder.look)
            await self._clock.sleep(LOOK_EVERY_S)

    def offered(self, caller: Caller | None) -> Mapping[str, AgentProfile]:
        """The agents that the caller may use, by name. Without a caller those that all may use."""
        return {
            name: profile
            for name, profile in self._folder.profiles.items()
            if (profile.is_for(caller.tenant) if caller else not profile.tenants)
        }

    def named(self, name: str, caller: Caller) -> AgentProfile | None:
        """The agent that a `model` names, as it is now; None for the usual one, or none that the
        caller may use."""
        return self.offered(caller).get(name.partition("/")[0])

    async def found(self, name: str, caller: Caller | None) -> tuple[AgentProfile, str] | None:
        """The agent that a `model` means, if it means one that the caller may use, and its model's
        id."""
        agent, _, wanted = name.partition("/")
        profile = self.offered(caller).get(agent)
        model = await self._model_of(profile, wanted, caller) if profile else None
        return None if profile is None or model is None else (profile, model)

    async def choose(self, name: str, caller: Caller) -> ChosenAgent | None:
        """The agent and model that a `model` means: `AGENT`, `AGENT/MODEL` or a model's name.

        None if there is none that the caller may use. Raises `StoreUnavailable`.
        """
        agent, _, wanted = name.partition("/")
        profile = self.named(name, caller)
        if profile is None:
            model = await self._models.resolve(name, caller)
            return ChosenAgent(model) if model is not None else None
        model = await self._model_of(profile, wanted, caller)
        if model is None:
            return None
        ref = AgentRef(name=agent, digest=await self._kept(profile))
        return ChosenAgent(model, ref, profile, await self._delegation(profile, caller))

    async def _delegation(self, profile: AgentProfile, caller: Caller) -> Delegation | None:
        """The agents that can be reached from one, level by level; None if there are none.

        One that the caller may not use is left out, as if it was not listed.
        """
        offered, reached = self.offered(caller), dict[str, Delegate]()
        names = list(dict.fromkeys(profile.delegates))
        for _ in range(self._depth):
            found = [name for name in names if name in offered and name not in reached]
            for name in found[: REACHED_MAX - len(reached)]:
                if (model := await self._model_of(offered[name], "", caller)) is None:
                    continue
                ref = AgentRef(name=name, digest=await self._kept(offered[name]))
                about = offered[name].description[:DESCRIPTION_MAX_CHARS]
                reached[name] = Delegate(agent=ref, model=model, description=about)
            names = list(dict.fromkeys(one for name in found for one in offered[name].delegates))
        return Delegation(reached=reached) if reached else None

    async def _model_of(
        self, profile: AgentProfile, wanted: str, caller: Caller | None
    ) -> str | None:
        allowed = profile.models
        asked = wanted or profile.model or (allowed[0] if allowed else self._default_model)
        model = await self._models.resolve(asked, caller)
        if not allowed or model is None:
            return model
        ids = [await self._models.resolve(one, caller) for one in allowed]
        return model if model in ids else None

    async def _kept(self, profile: AgentProfile) -> str:
        digest, now_s = profile.digest, self._clock.monotonic()
        if (kept_s := self._kept_s.get(digest)) is not None and now_s < kept_s + KEPT_ANEW_S:
            return digest
        try:
            bundle = self._folder.bundle(profile.bundle) if profile.bundle else None
            await self._profiles.keep(profile, ttl_s=self._keep_s, bundle=bundle)
        except StoreUnavailable:
            if kept_s is None:
                raise
            log.warning("agent's version not kept anew", extra=fields(digest=digest))
            return digest
        self._kept_s[digest] = now_s
        return digest
