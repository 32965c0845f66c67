"""Answers callers' questions to the catalogue: each sees what is for their tenant."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from api.registry.shapes import OFFICIAL, AgentVersion, RegistryAgent, RegistryMeta, RegistryServer
from infra.registry.catalogue import Catalogue
from infra.registry.entries import CatalogueQuery, FoundEntry, NoSuchCursor
from infra.runtime.logs import fields
from infra.wire.errors import ErrorCode, FileGone, RequestRefused

log = logging.getLogger(__name__)

CONTENTS_AT_ONCE = 8


class RegistryReader:
    """One replica's."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def page(
        self, query: CatalogueQuery, *, after: str | None, limit: int
    ) -> tuple[list[FoundEntry], str | None]:
        """A page, and the cursor of the next one. Raises `RequestRefused` and
        `FileStoreUnavailable`."""
        try:
            return await self._catalogue.page(query, after=after, limit=limit)
        except NoSuchCursor:
            raise RequestRefused(
                "`cursor` must be the `nextCursor` of a page before", param="cursor"
            ) from None

    async def versions(self, query: CatalogueQuery, name: str) -> list[FoundEntry]:
        """All versions, the newest first. Raises `RequestRefused` (404) if there is none, and
        `FileStoreUnavailable`."""
        found = await self._catalogue.versions(query, name)
        if not found:
            raise not_there()
        return found

    async def one(self, query: CatalogueQuery, name: str, version: str) -> FoundEntry:
        """One version. Raises `RequestRefused` (404) if there is none, and
        `FileStoreUnavailable`."""
        found = await self._catalogue.one(query, name, version)
        if found is None:
            raise not_there()
        return found

    async def content(self, found: FoundEntry) -> bytes:
        """What was published. Raises `FileGone` and `FileStoreUnavailable`."""
        return await self._catalogue.content(found.entry)

    async def servers(self, found: Sequence[FoundEntry]) -> list[RegistryServer]:
        """MCP servers with what was published of them. One whose contents are lost is left out, so
        that it keeps nobody from the others. Raises `FileStoreUnavailable`."""
        places = asyncio.Semaphore(CONTENTS_AT_ONCE)

        async def shown(one: FoundEntry) -> RegistryServer | None:
            async with places:
                try:
                    raw = await self.content(one)
                except FileGone:
                    told = one.entry.published
                    log.error("contents lost", extra=fields(server=told.name, version=told.version))
                    return None
            return RegistryServer.model_validate({"server": json.loads(raw), "_meta": _meta(one)})

        return [one for one in await asyncio.gather(*map(shown, found)) if one is not None]

    def agents(self, found: Sequence[FoundEntry]) -> list[RegistryAgent]:
        """Agents, as far as the catalogue itself knows them."""
        return [
            RegistryAgent.model_validate({"agent": _agent(one), "_meta": _meta(one)})
            for one in found
        ]


def _agent(found: FoundEntry) -> AgentVersion:
    told = found.entry.published
    return AgentVersion(
        name=told.name,
        version=told.version,
        description=told.description,
        publisher=told.name.partition("/")[0],
        digest=told.digest,
        bytes=told.bytes,
    )


def _meta(found: FoundEntry) -> dict[str, RegistryMeta]:
    entry = found.entry
    published = _at(entry.published.at_ms)
    return {
        OFFICIAL: RegistryMeta(
            status=entry.status.value,
            statusMessage=entry.message or None,
            statusChangedAt=_at(entry.changed_ms) if entry.changed_ms else published,
            publishedAt=published,
            updatedAt=_at(entry.updated_ms),
            isLatest=found.is_latest,
        )
    }


def _at(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def not_there() -> RequestRefused:
    return RequestRefused("", code=ErrorCode.REGISTRY_ENTRY_NOT_FOUND)
