"""What agents have made: by signed links, of a session, and as OpenAI's container files."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.conversations.shapes import (
    ContainerFile,
    ContainerFileList,
    SessionFile,
    SessionFiles,
)
from api.deps import ApiDeps
from api.files.answer import FileAnswer
from api.files.made_files import KeptFile
from api.files.zipped import ZipAnswer
from api.http.edge import held_body
from api.http.files_host import LINKS_AT
from api.routes.openapi import KEYED, RANGE, errors
from infra.files.store import PIECE_BYTES
from infra.store.files.files import FileRecord
from infra.wire.errors import ConversationNotFound
from infra.wire.ids import ConversationKey

CONTAINER_PREFIX = "cntr_"
PATH_MAX_CHARS = 300


def artifact_routes(deps: ApiDeps) -> APIRouter:
    """Links have one form only; the others are there with and without `/v1`."""
    router = APIRouter(tags=["files"])
    made, files = deps.made, deps.files

    async def get_artifact(request: Request, token: str, name: str) -> Response:
        """A file that an agent made, by the signed link of an answer; needs no key. Pictures and
        plain text may be shown by a browser, everything else is saved."""
        file = deps.links.file_of(token, now_ms=deps.clock.unix_ms())
        return await sent(request, await made.linked(file), may_be_shown=True)

    async def list_session_files(request: Request, name: str) -> SessionFiles:
        """The files that its agent made or changed, as kept at the ends of its turns: the newest
        version of each path."""
        found = await made.of(await of_session(request, name))
        return SessionFiles(data=[_listed(kept) for kept in found])

    async def get_session_file(
        request: Request,
        name: str,
        path: Annotated[str, Query(max_length=PATH_MAX_CHARS, description="As it is listed.")] = "",
    ) -> Response:
        """The newest version of one file, as an attachment."""
        kept = await made.at(await of_session(request, name), path)
        return await sent(request, kept.record)

    async def get_session_zip(request: Request, name: str) -> Response:
        """The newest versions of all files, as a zip that is made while it is sent."""
        c = await of_session(request, name)
        held_body(request).hold(PIECE_BYTES)
        return ZipAnswer(
            [(kept, await files.reader(kept.record)) for kept in await made.of(c)],
            name=f"files-{c}",
            send_timeout_s=deps.settings.send_timeout_s,
        )

    async def list_container_files(request: Request, container_id: str) -> ContainerFileList:
        """The same files in OpenAI's form. A conversation is the container `cntr_` and its key."""
        c = await of_container(request, container_id)
        data = [_contained(kept, container_id) for kept in await made.of(c)]
        return ContainerFileList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
        )

    async def get_container_file(
        request: Request, container_id: str, file_id: str
    ) -> ContainerFile:
        """One of them."""
        kept = await made.one(await of_container(request, container_id), file_id)
        return _contained(kept, container_id)

    async def get_container_file_content(
        request: Request, container_id: str, file_id: str
    ) -> Response:
        """Its bytes, or a range of them, as an attachment."""
        kept = await made.one(await of_container(request, container_id), file_id)
        return await sent(request, kept.record)

    async def of_session(request: Request, name: str) -> ConversationKey:
        caller = await deps.admission.admit(request)
        held_body(request).belong(caller.tenant)
        return (await deps.sessions.find(name, caller)).conversation

    async def of_container(request: Request, container_id: str) -> ConversationKey:
        caller = await deps.admission.admit(request)
        held_body(request).belong(caller.tenant)
        key = container_id.removeprefix(CONTAINER_PREFIX)
        record = await deps.sessions.find(key, caller)
        if key == container_id or record.conversation != key:
            raise ConversationNotFound(container_id)
        return record.conversation

    async def sent(request: Request, record: FileRecord, *, may_be_shown: bool = False) -> Response:
        answer = FileAnswer(
            record,
            await files.reader(record),
            request.headers,
            send_timeout_s=deps.settings.send_timeout_s,
            may_be_shown=may_be_shown,
        )
        held_body(request).hold(min(PIECE_BYTES, record.bytes))
        return answer

    bytes_of: dict[str, Any] = {
        "response_model": None,
        "response_class": Response,
        "responses": {
            200: {"content": {"application/octet-stream": {}}},
            206: {"content": {"application/octet-stream": {}}, "description": "A range."},
            **errors(404, 410, 416),
        },
    }
    router.add_api_route(
        f"{LINKS_AT}/{{token}}/{{name}}", get_artifact, openapi_extra=RANGE, **bytes_of
    )
    listed: dict[str, Any] = {"responses": errors(404), "openapi_extra": KEYED}
    ranged: dict[str, Any] = {"openapi_extra": KEYED | RANGE, **bytes_of}
    zipped: dict[str, Any] = {
        **bytes_of,
        "openapi_extra": KEYED,
        "responses": {200: {"content": {"application/zip": {}}}, **errors(404)},
    }
    for prefix, in_schema in (("/v1", True), ("", False)):
        session = f"{prefix}/sessions/{{name:path}}/files"
        container = f"{prefix}/containers/{{container_id}}/files"
        for path, endpoint, how in (
            (session, list_session_files, listed),
            (f"{session}/content", get_session_file, ranged),
            (f"{session}.zip", get_session_zip, zipped),
            (container, list_container_files, listed),
            (f"{container}/{{file_id}}", get_container_file, listed),
            (f"{container}/{{file_id}}/content", get_container_file_content, ranged),
        ):
            router.add_api_route(path, endpoint, include_in_schema=in_schema, **how)
    return router


def _listed(kept: KeptFile) -> SessionFile:
    record = kept.record
    return SessionFile(
        id=record.id,
        path=kept.path,
        bytes=record.bytes,
        type=record.type,
        kept_at=record.created_ms // 1000,
        expires_at=None if record.expires_ms is None else record.expires_ms // 1000,
    )


def _contained(kept: KeptFile, container: str) -> ContainerFile:
    record = kept.record
    return ContainerFile(
        id=record.id,
        bytes=record.bytes,
        container_id=container,
        created_at=record.created_ms // 1000,
        path=f"/workspace/{kept.path}",
    )
