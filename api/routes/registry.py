"""`/v0.1`: the catalogue of MCP servers, as the public registry has it, and of agents. Read only:
what is in it is published with `agcluster agents publish` and `agcluster mcp publish`."""

from __future__ import annotations

from collections.abc import Sized
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
    registry = deps.registry

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
        query = await asked(
            request, EntryKind.SERVER, search, updated_since, version, include_deleted
        )
        found, after = await registry.page(query, after=cursor, limit=limit)
        servers = await contents(request, found)
        return RegistryServerList(servers=servers, metadata=_page(servers, after))

    async def list_server_versions(
        request: Request, server_name: str, include_deleted: Deleted = False
    ) -> RegistryServerList:
        """All versions of an MCP server, the newest first."""
        query = await asked(request, EntryKind.SERVER, with_deleted=include_deleted)
        found = (await registry.versions(query, server_name))[:PAGE_MAX]
        servers = await contents(request, found)
        return RegistryServerList(servers=servers, metadata=_page(servers))

    async def get_server_version(
        request: Request, server_name: str, version: str, include_deleted: Deleted = False
    ) -> RegistryServer:
        """One version of an MCP server; `latest` is the latest."""
        query = await asked(request, EntryKind.SERVER, with_deleted=include_deleted)
        found = await registry.one(query, server_name, version)
        if not (servers := await contents(request, [found])):
            raise not_there()
        return servers[0]

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
        query = await asked(
            request, EntryKind.AGENT, search, updated_since, version, include_deleted
        )
        found, after = await registry.page(query, after=cursor, limit=limit)
        return RegistryAgentList(agents=registry.agents(found), metadata=_page(found, after))

    async def list_agent_versions(
        request: Request, agent_name: str, include_deleted: Deleted = False
    ) -> RegistryAgentList:
        """All versions of an agent, the newest first."""
        query = await asked(request, EntryKind.AGENT, with_deleted=include_deleted)
        found = (await registry.versions(query, agent_name))[:PAGE_MAX]
        return RegistryAgentList(agents=registry.agents(found), metadata=_page(found))

    async def get_agent_version(
        request: Request, agent_name: str, version: str, include_deleted: Deleted = False
    ) -> RegistryAgent:
        """One version of an agent; `latest` is the latest."""
        query = await asked(request, EntryKind.AGENT, with_deleted=include_deleted)
        found = await registry.one(query, agent_name, version)
        [agent] = registry.agents([found])
        return agent

    async def get_agent_release(request: Request, agent_name: str, version: str) -> Response:
        """A version's signed release, for `agcluster agents install`."""
        query = await asked(request, EntryKind.AGENT)
        found = await registry.one(query, agent_name, version)
        held_body(request).hold(found.entry.published.bytes)
        return Response(
            await registry.content(found),
            media_type="application/octet-stream",
            headers={"content-disposition": "attachment", "x-content-type-options": "nosniff"},
        )

    async def contents(request: Request, found: list[FoundEntry]) -> list[RegistryServer]:
        held_body(request).hold(sum(one.entry.published.bytes for one in found))
        return await registry.servers(found)

    async def asked(
        request: Request,
        kind: EntryKind,
        search: str = "",
        since: datetime | None = None,
        version: str | None = None,
        with_deleted: bool = False,
    ) -> CatalogueQuery:
        is_open = deps.settings.registry_open
        admit = deps.admission.greet if is_open else deps.admission.admit
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

    is_open = deps.settings.registry_open
    common: dict[str, Any] = {
        "openapi_extra": OPEN_OR_KEYED if is_open else KEYED,
        "response_model_exclude_none": True,
    }
    servers, agents = "/v0.1/servers", "/v0.1/agents"
    one_server, one_agent = f"{servers}/{{server_name:path}}", f"{agents}/{{agent_name:path}}"
    router.add_api_route(servers, list_servers, responses=errors(404), **common)
    router.add_api_route(agents, list_agents, responses=errors(404), **common)
    router.add_api_route(
        f"{one_agent}/versions/{{version}}/release",
        get_agent_release,
        response_model=None,
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}, **errors(404)},
        openapi_extra=common["openapi_extra"],
    )
    for path, versions, version in (
        (one_server, list_server_versions, get_server_version),
        (one_agent, list_agent_versions, get_agent_version),
    ):
        router.add_api_route(f"{path}/versions", versions, responses=errors(404), **common)
        router.add_api_route(
            f"{path}/versions/{{version}}", version, responses=errors(404), **common
        )
    return router


def _page(found: Sized, after: str | None = None) -> PageMeta:
    return PageMeta(count=len(found), nextCursor=after)


def _ms(at: datetime) -> int:
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
