"""`/v1/uploads`: files that come in parts, in OpenAI's form."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from api.deps import ApiDeps
from api.files.shapes import PURPOSES, CompleteUploadBody, NewUploadBody, Upload, UploadPart
from api.http.bodies import read_small
from api.http.edge import held_body
from api.routes.files import form_of, shown
from api.routes.openapi import KEYED, PART_FORM, errors, json_of
from infra.files.store import PUT_HOLDS_BYTES
from infra.store.files.files import FileRecord
from infra.store.files.uploads import UploadRecord
from infra.wire.errors import ErrorCode, RequestRefused


def upload_routes(deps: ApiDeps) -> APIRouter:
    """With and without `/v1`."""
    router = APIRouter(tags=["files"])
    uploads = deps.uploads

    async def create_upload(request: Request) -> Upload:
        """Announce a file that comes in parts, within an hour."""
        caller = await deps.admission.admit(request)
        held_body(request).belong(caller.tenant)
        body = await read_small(request, NewUploadBody, known=PURPOSES)
        return _shown(await uploads.begin(caller, body), None)

    async def add_upload_part(request: Request, upload_id: str) -> UploadPart:
        """Send a part, as a form. Parts may come at the same time, in any order."""
        caller = await deps.admission.admit(request)
        if deps.drain.is_closed:
            raise RequestRefused("", code=ErrorCode.SHUTTING_DOWN)
        form, length = form_of(request)
        held_body(request).belong(caller.tenant)
        held_body(request).hold(min(PUT_HOLDS_BYTES, length or PUT_HOLDS_BYTES))
        part, made_ms = await uploads.add_part(upload_id, caller, form, length=length)
        return UploadPart(id=part, created_at=made_ms // 1000, upload_id=upload_id)

    async def complete_upload(request: Request, upload_id: str) -> Upload:
        """Make the file of its parts, in the order that is given."""
        caller = await deps.admission.admit(request)
        held_body(request).belong(caller.tenant)
        body = await read_small(request, CompleteUploadBody)
        held_body(request).hold(PUT_HOLDS_BYTES)
        record, file = await uploads.complete(
            upload_id, caller, part_ids=body.part_ids, md5=body.md5
        )
        return _shown(record, file)

    async def cancel_upload(request: Request, upload_id: str) -> Upload:
        """Take no more parts, and delete those that have come."""
        caller = await deps.admission.admit(request)
        return _shown(await uploads.cancel(upload_id, caller), None)

    for prefix, in_schema in (("/v1", True), ("", False)):
        common: dict[str, Any] = {"methods": ["POST"], "include_in_schema": in_schema}
        one = f"{prefix}/uploads/{{upload_id}}"
        router.add_api_route(
            f"{prefix}/uploads",
            create_upload,
            responses=errors(408, 413),
            openapi_extra=KEYED | json_of(NewUploadBody),
            **common,
        )
        router.add_api_route(
            f"{one}/parts",
            add_upload_part,
            responses=errors(404, 408, 413),
            openapi_extra=KEYED | PART_FORM,
            **common,
        )
        router.add_api_route(
            f"{one}/complete",
            complete_upload,
            responses=errors(404, 408, 413),
            openapi_extra=KEYED | json_of(CompleteUploadBody),
            **common,
        )
        router.add_api_route(
            f"{one}/cancel",
            cancel_upload,
            responses=errors(404),
            openapi_extra=KEYED,
            **common,
        )
    return router


def _shown(record: UploadRecord, file: FileRecord | None) -> Upload:
    return Upload(
        id=record.id,
        bytes=record.bytes,
        created_at=record.created_ms // 1000,
        expires_at=record.expires_ms // 1000,
        filename=record.name,
        purpose=record.purpose,
        status=record.status,
        file=None if file is None else shown(file),
    )
