"""`/v1/sessions`: a caller's conversations. `{name}` is the client's own name or the key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from api.conversations.shapes import Session, SessionDeleted, SessionList, SessionShown
from api.deps import ApiDeps
from api.routes.openapi import KEYED, errors
from infra.store.conversations.conversations import ConversationRecord
from infra.wire.errors import RequestRefused

LISTED_MAX = 100


def session_routes(deps: ApiDeps) -> APIRouter:
    """With and without `/v1`."""
    router = APIRouter(tags=["sessions"])
    sessions = deps.sessions

    async def list_sessions(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=LISTED_MAX)] = 20,
        after: Annotated[
            str | None, Query(max_length=64, description="`next` of the page before.")
        ] = None,
    ) -> SessionList:
        """The caller's conversations, the most recently used first."""
        caller = await deps.admission.admit(request)
        try:
            page = await sessions.page(caller, after=after, limit=limit)
        except ValueError:
            raise RequestRefused(
                "`after` must be `next` of the page before.", param="after"
            ) from None
        data = [Session.model_validate(_shown(record)) for record in page.conversations]
        return SessionList(data=data, has_more=page.cursor is not None, next=page.cursor)

    async def get_session(request: Request, name: str) -> SessionShown:
        """One conversation, with the ids of its newest turns."""
        caller = await deps.admission.admit(request)
        record = await sessions.find(name, caller)
        turn_ids = list(await sessions.turns(record))
        return SessionShown.model_validate(
            {**_shown(record), "turn_ids": turn_ids, "caller": record.caller}
        )

    async def delete_session(request: Request, name: str) -> SessionDeleted:
        """Delete it everywhere: its memory, turns, container and files. Running turns are
        cancelled."""
        caller = await deps.admission.admit(request)
        return SessionDeleted(conversation=await sessions.delete(name, caller))

    for prefix, in_schema in (("/v1", True), ("", False)):
        common: dict[str, Any] = {
            "responses": errors(404),
            "openapi_extra": KEYED,
            "include_in_schema": in_schema,
        }
        one = f"{prefix}/sessions/{{name:path}}"
        router.add_api_route(f"{prefix}/sessions", list_sessions, **common)
        router.add_api_route(one, get_session, **common)
        router.add_api_route(one, delete_session, methods=["DELETE"], **common)
    return router


def _shown(record: ConversationRecord) -> dict[str, Any]:
    """What its tenant may see, named as in its hash. Only the operator may see where it runs."""
    return {
        "conversation": record.conversation,
        "label": record.label,
        "state": record.state.value,
        "turn": record.turn,
        "turns": record.turns,
        "created": record.created_ms // 1000,
        "last_active": record.last_active_ms // 1000,
        "idle_at": None if record.idle_at_ms is None else record.idle_at_ms // 1000,
    }
