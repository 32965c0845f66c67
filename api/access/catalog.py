"""The available models: those of the settings, and those that the upstream lists for the caller's
key.

So a new model needs no release of ours. The upstream's list is requested with a caller's key and
cached for minutes. If it is unavailable, or the operator has set a list, only the models of the
settings are used. Names are accepted in the forms that clients write: without a date, with
`-latest`, with dots, with `anthropic/` in front.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from api.access.key_check import ANTHROPIC_VERSION, TIMEOUT_S
from api.access.model_facts import ModelFacts, facts_of, with_told
from api.http.auth import Caller
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.runtime.settings import ModelSettings
from infra.wire.ids import TenantId

log = logging.getLogger(__name__)

LIST_TTL_S = 300.0
AWAY_TTL_S = 5.0
REMEMBERED_MAX = 1000
LISTED_MAX = 1000

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_DATE = re.compile(r"-(20\d{2})(\d{2})(\d{2})$")
_DOT = re.compile(r"(?<=\d)\.(?=\d)")


@dataclass(frozen=True)
class _Listed:
    models: Mapping[str, ModelFacts]
    """Ids, and what is known of each."""
    until_s: float


class ModelCatalog:
    """The models of one deployment."""

    def __init__(self, settings: ModelSettings, upstream: httpx.AsyncClient, clock: Clock) -> None:
        self._settings = settings
        self._upstream = upstream
        self._clock = clock
        self._url = f"{settings.anthropic_base_url}/v1/models"
        self._remembered: OrderedDict[TenantId, _Listed] = OrderedDict()
        named = (*settings.models, *settings.model_aliases, *settings.utility_models)
        self._own = {name: settings.resolve_model(name) or name for name in named}

    async def offered(self, caller: Caller | None) -> dict[str, ModelFacts]:
        """Names and what is known of each, ours first. Without a caller only ours.

        What the upstream says of a model counts for our names for it too.
        """
        listed = await self._listed(caller)
        own = {name: self.facts(id, listed.get(id)) for name, id in self._own.items()}
        return own | {id: self.facts(id, found) for id, found in listed.items() if id not in own}

    def facts(self, id: str, listed: ModelFacts | None = None) -> ModelFacts:
        """What is known of a model, by its real id. `listed`: by the upstream's list."""
        return with_told(listed or facts_of(id), self._settings.model_facts.get(id))

    async def resolve(self, name: str, caller: Caller | None) -> str | None:
        """The id of the model that a name means; None if there is none."""
        own = self._settings.resolve_model(name)
        if own is not None:
            return own
        if (found := find(name, self._settings.models)) is not None:
            return found
        plain = name.removeprefix(_VENDOR)
        if (own := self._settings.resolve_model(plain)) is not None:
            return own
        return find(name, await self._listed(caller))

    async def _listed(self, caller: Caller | None) -> Mapping[str, ModelFacts]:
        if caller is None or not self._settings.upstream_models:
            return {}
        known = self._remembered.get(caller.tenant)
        now_s = self._clock.monotonic()
        if known is not None and now_s < known.until_s:
            return known.models
        models = await self._ask(caller)
        # While the upstream is unavailable, the last list is better than none.
        held = models if models is not None else (known.models if known else {})
        ttl_s = AWAY_TTL_S if models is None else LIST_TTL_S
        self._remembered[caller.tenant] = _Listed(held, now_s + ttl_s)
        self._remembered.move_to_end(caller.tenant)
        while len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return held

    async def _ask(self, caller: Caller) -> Mapping[str, ModelFacts] | None:
        headers = {"x-api-key": caller.api_key, "anthropic-version": ANTHROPIC_VERSION}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._upstream.get(
                    self._url, params={"limit": LISTED_MAX}, headers=headers
                )
                answer.raise_for_status()
            return dict(_models_of(answer.json()))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            told = fields(tenant=caller.tenant, error=type(error).__name__)
            log.warning("the upstream's models are not known", extra=told)
            return None


_VENDOR = "anthropic/"


def find(name: str, ids: Iterable[str]) -> str | None:
    """The id that a name means: itself, or the newest of those that differ only by a date."""
    asked = _DOT.sub("-", name.removeprefix(_VENDOR)).removesuffix("-latest")
    stems = (asked, asked.removesuffix("-0"))
    found = [id for id in ids if id == asked or _DATE.sub("", id) in stems]
    return max(found, key=lambda id: (id == asked, id), default=None)


def _models_of(answer: Any) -> Iterable[tuple[str, ModelFacts]]:
    """The upstream's list, as far as it is valid. Raises `ValueError`."""
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        raise ValueError("not a list of models")
    for model in answer["data"][:LISTED_MAX]:
        id = model.get("id") if isinstance(model, dict) else None
        if isinstance(id, str) and _ID.fullmatch(id):
            yield id, facts_of(id, model)
