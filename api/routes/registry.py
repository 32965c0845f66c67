"""`/v0.1`: the catalogue of MCP servers, as the public registry has it, and of agents. Read only:
what is in it is published with `agcluster agents publish` and `agcluster mcp publish`."""

from __future__ import annotations

from collections.abc import Callable, Sized
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deps import ApiDeps
from api.http.edge import held_body
from api.registry.reading import not_there
from api.registry.shapes import (
    PageMeta,
    RegistryAgent,
    RegistryAgentList,
    RegistryServer,
    RegistryServerList,
)
from api.routes.openapi import KEYED, OPEN_OR_KEYED, errors
from infra.registry.entries import CatalogueQuery, FoundEntry
from infra.registry.records import EntryKind

PAGE_MAX = 100
SERVERS, AGENTS = "/v0.1/servers", "/v0.1/agents"

Cursor = Annotated[
    str | None, Query(max_length=300, description="The `nextCursor` of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Search = Annotated[str, Query(max_length=200, description="A part of the name.")]
Since = Annotated[
    datetime | None, Query(description="Only what has changed since; includes what was deleted.")
]
Version = Annotated[str | None, Query(max_length=255, description="`latest`, or one version.")]
Deleted = Annotated[bool, Query(description="Include what was deleted.")]


def registry_routes(deps: ApiDeps) -> APIRouter:
    """In one form only, the public registry's."""
    router = APIRouter(tags=["registry"])
    asker = _Asker(deps)
    _add_server_routes(router, asker)
    _add_agent_routes(router, asker)
    return router


class _Asker:
    """Asks the catalogue for a request."""

    def __init__(self, deps: ApiDeps) -> None:
        self.registry = deps.registry
        self._admission = deps.admission
        self._is_open = deps.settings.registry_open
        self.openapi_extra = OPEN_OR_KEYED if self._is_open else KEYED
        self._common: dict[str, Any] = {
            "openapi_extra": self.openapi_extra,
            "response_model_exclude_none": True,
            "responses": errors(404),
        }

    def adder(self, router: APIRouter) -> Callable[[str, Callable[..., Any]], None]:
        """Adds a route that reads the catalogue."""

        def add(path: str, endpoint: Callable[..., Any]) -> None:
            router.add_api_route(path, endpoint, **self._common)

        return add

    async def query(
        self,
        request: Request,
        kind: EntryKind,
        search: str = "",
        since: datetime | None = None,
        version: str | None = None,
        with_deleted: bool = False,
    ) -> CatalogueQuery:
        """What its caller may ask. Raises `RequestRefused`."""
        admit = self._admission.greet if self._is_open else self._admission.admit
        caller = await admit(request)
        if caller is not None:
            held_body(request).belong(caller.tenant)
        return CatalogueQuery(
            kind=kind,
            tenant=caller.tenant if caller else None,
            search=search,
            version=version,
            updated_since_ms=None if since is None else _ms(since),
            with_deleted=with_deleted or since is not None,
        )

    async def servers(self, request: Request, found: list[FoundEntry]) -> list[RegistryServer]:
        """What is published of these, held as a body is."""
        held_body(request).hold(sum(one.entry.published.bytes for one in found))
        return await self.registry.servers(found)


def _add_server_routes(router: APIRouter, asker: _Asker) -> None:
    async def list_servers(
        request: Request,
        cursor: Cursor = None,
        limit: Limit = 30,
        search: Search = "",
        updated_since: Since = None,
        version: Version = None,
        include_deleted: Deleted = False,
    ) -> RegistryServerList:
        """MCP servers by name, each version as its publisher described it."""
        query = await asker.query(
            request, EntryKind.SERVER, search, updated_since, version, include_deleted
        )
        found, after = await asker.registry.page(query, after=cursor, limit=limit)
        servers = await asker.servers(request, found)
        return RegistryServerList(servers=servers, metadata=_page(servers, after))

    async def list_server_versions(
        request: Request, server_name: str, include_deleted: Deleted = False
    ) -> RegistryServerList:
        """All versions of an MCP server, the newest first."""
        query = await asker.query(request, EntryKind.SERVER, with_deleted=include_deleted)
        found = (await asker.registry.versions(query, server_name))[:PAGE_MAX]
        servers = await asker.servers(request, found)
        return RegistryServerList(servers=servers, metadata=_page(servers))

    async def get_server_version(
        request: Request, server_name: str, version: str, include_deleted: Deleted = False
    ) -> RegistryServer:
        """One version of an MCP server; `latest` is the latest."""
        query = await asker.query(request, EntryKind.SERVER, with_deleted=include_deleted)
        found = await asker.registry.one(query, server_name, version)
        if not (servers := await asker.servers(request, [found])):
            raise not_there()
        return servers[0]

    add = asker.adder(router)
    one = f"{SERVERS}/{{server_name:path}}"
    add(SERVERS, list_servers)
    add(f"{one}/versions", list_server_versions)
    add(f"{one}/versions/{{version}}", get_server_version)


def _add_agent_routes(router: APIRouter, asker: _Asker) -> None:
    async def list_agents(
        request: Request,
        cursor: Cursor = None,
        limit: Limit = 30,
        search: Search = "",
        updated_since: Since = None,
        version: Version = None,
        include_deleted: Deleted = False,
    ) -> RegistryAgentList:
        """Agents by name, each version."""
        query = await asker.query(
            request, EntryKind.AGENT, search, updated_since, version, include_deleted
        )
        found, after = await asker.registry.page(query, after=cursor, limit=limit)
        return RegistryAgentList(agents=asker.registry.agents(found), metadata=_page(found, after))

    async def list_agent_versions(
        request: Request, agent_name: str, include_deleted: Deleted = False
    ) -> RegistryAgentList:
        """All versions of an agent, the newest first."""
        query = await asker.query(request, EntryKind.AGENT, with_deleted=include_deleted)
        found = (await asker.registry.versions(query, agent_name))[:PAGE_MAX]
        return RegistryAgentList(agents=asker.registry.agents(found), metadata=_page(found))

    async def get_agent_version(
        request: Request, agent_name: str, version: str, include_deleted: Deleted = False
    ) -> RegistryAgent:
        """One version of an agent; `latest` is the latest."""
        query = await asker.query(request, EntryKind.AGENT, with_deleted=include_deleted)
        found = await asker.registry.one(query, agent_name, version)
        [agent] = asker.registry.agents([found])
        return agent

    async def get_agent_release(request: Request, agent_name: str, version: str) -> Response:
        """A version's signed release, for `agcluster agents install`."""
        query = await asker.query(request, EntryKind.AGENT)
        found = await asker.registry.one(query, agent_name, version)
        held_body(request).hold(found.entry.published.bytes)
        return Response(
            await asker.registry.content(found),
            media_type="application/octet-stream",
            headers={"content-disposition": "attachment", "x-content-type-options": "nosniff"},
        )

    add = asker.adder(router)
    one = f"{AGENTS}/{{agent_name:path}}"
    add(AGENTS, list_agents)
    router.add_api_route(
        f"{one}/versions/{{version}}/release",
        get_agent_release,
        response_model=None,
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}, **errors(404)},
        openapi_extra=asker.openapi_extra,
    )
    add(f"{one}/versions", list_agent_versions)
    add(f"{one}/versions/{{version}}", get_agent_version)


def _page(found: Sized, after: str | None = None) -> PageMeta:
    return PageMeta(count=len(found), nextCursor=after)


def _ms(at: datetime) -> int:
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
