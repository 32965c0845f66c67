"""`/v1/files`: what callers upload, in OpenAI's form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deps import ApiDeps
from api.files.answer import FileAnswer
from api.files.shapes import File, FileDeleted, FileList, Purpose
from api.http.edge import held_body
from api.http.forms import FormReader
from api.routes.openapi import FILE_FORM, KEYED, RANGE, errors
from infra.files.store import PIECE_BYTES, PUT_HOLDS_BYTES
from infra.store.files.files import FileRecord
from infra.wire.errors import ErrorCode, RequestRefused

LISTED_MAX = 10_000


def file_routes(deps: ApiDeps) -> APIRouter:
    """With and without `/v1`."""
    router = APIRouter(tags=["files"])
    files = deps.files

    async def create_file(request: Request) -> File:
        """Upload a file, as a form. It is stored while it arrives."""
        caller = await deps.admission.admit(request)
        if deps.drain.is_closed:
            raise RequestRefused("", code=ErrorCode.SHUTTING_DOWN)
        form, length = form_of(request)
        held_body(request).belong(caller.tenant)
        held_body(request).hold(min(PUT_HOLDS_BYTES, length or PUT_HOLDS_BYTES))
        return shown(await files.upload(caller, form, length=length))

    async def list_files(
        request: Request,
        after: Annotated[
            str | None, Query(max_length=64, description="The last id of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=LISTED_MAX)] = LISTED_MAX,
        order: Literal["asc", "desc"] = "desc",
        purpose: Purpose | None = None,
    ) -> FileList:
        """The caller's files, by the time they were made."""
        caller = await deps.admission.admit(request)
        records, has_more = await files.page(
            caller, purpose=purpose, after=after, limit=limit, is_rising=order == "asc"
        )
        data = [shown(record) for record in records]
        return FileList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=has_more,
        )

    async def get_file(request: Request, file_id: str) -> File:
        """What is known of a file."""
        caller = await deps.admission.admit(request)
        return shown(await files.find(file_id, caller))

    async def get_file_content(request: Request, file_id: str) -> Response:
        """A file's bytes, or a range of them, as an attachment."""
        caller = await deps.admission.admit(request)
        record = await files.find(file_id, caller)
        held_body(request).belong(caller.tenant)
        answer = FileAnswer(
            record,
            await files.reader(record),
            request.headers,
            send_timeout_s=deps.settings.send_timeout_s,
        )
        held_body(request).hold(min(PIECE_BYTES, record.bytes))
        return answer

    async def delete_file(request: Request, file_id: str) -> FileDeleted:
        """Delete a file for good."""
        caller = await deps.admission.admit(request)
        return FileDeleted(id=(await files.delete(file_id, caller)).id)

    for prefix, in_schema in (("/v1", True), ("", False)):
        common: dict[str, Any] = {"include_in_schema": in_schema}
        one = f"{prefix}/files/{{file_id}}"
        router.add_api_route(
            f"{prefix}/files",
            create_file,
            methods=["POST"],
            responses=errors(404, 408, 413),
            openapi_extra=KEYED | FILE_FORM,
            **common,
        )
        router.add_api_route(
            f"{prefix}/files", list_files, responses=errors(), openapi_extra=KEYED, **common
        )
        router.add_api_route(one, get_file, responses=errors(404), openapi_extra=KEYED, **common)
        router.add_api_route(
            one,
            delete_file,
            methods=["DELETE"],
            responses=errors(404),
            openapi_extra=KEYED,
            **common,
        )
        router.add_api_route(
            f"{one}/content",
            get_file_content,
            response_model=None,
            response_class=Response,
            responses={
                200: {"content": {"application/octet-stream": {}}},
                206: {"content": {"application/octet-stream": {}}, "description": "A range."},
                **errors(404, 416),
            },
            openapi_extra=KEYED | RANGE,
            **common,
        )
    return router


def form_of(request: Request) -> tuple[FormReader, int | None]:
    """The request's form, unread, and the length of its body if that is known."""
    said = request.headers.get("content-length", "")
    length = int(said) if said.isdigit() else None
    return FormReader(request.headers, request.stream()), length


def shown(record: FileRecord) -> File:
    """A file as its owner sees it."""
    return File(
        id=record.id,
        bytes=record.bytes,
        created_at=record.created_ms // 1000,
        expires_at=None if record.expires_ms is None else record.expires_ms // 1000,
        filename=record.name,
        purpose=record.purpose,
    )
