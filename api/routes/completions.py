"""`/v1/chat/completions/{id}`: an earlier completion, from any replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.chat.answer.chunks import ChunkFrames
from api.chat.answer.made import FileDisplay
from api.chat.answer.shapes import Cancellation, ChatCompletion
from api.chat.answer.stream import ChatStream
from api.chat.answer.vocabulary import completion_id as id_of
from api.chat.answer.vocabulary import turn_of
from api.chat.answer.whole import WholeAnswer
from api.chat.options.display import display_of
from api.deps import ApiDeps
from api.routes.openapi import EVENT_STREAM, KEYED, LAST_EVENT, errors
from infra.runtime.settings import ToolDisplay
from infra.store.turns.turns import TurnRecord
from infra.wire.errors import ErrorCode, RequestRefused

_CURSOR_MAX = 2**53


def completion_routes(deps: ApiDeps) -> APIRouter:
    """With and without `/v1`."""
    router = APIRouter(tags=["chat"])

    async def get_chat_completion(
        request: Request,
        completion_id: str,
        stream: Annotated[bool, Query(description="Events instead of the whole.")] = False,
        starting_after: Annotated[
            int | None,
            Query(ge=0, le=_CURSOR_MAX, description="The `id` of the last event that was seen."),
        ] = None,
        include_usage: Annotated[bool, Query(description="As in `stream_options`.")] = False,
    ) -> Response:
        """A completion by its id, until an hour after its end. Without `stream` it must be finished
        (otherwise 409 `turn_running`). A stream starts after `Last-Event-ID` or `starting_after`,
        or at the beginning, and follows the turn until it ends. Disconnecting does not stop the
        turn."""
        caller = await deps.admission.admit(request)
        if deps.drain.is_closed:
            raise RequestRefused("", code=ErrorCode.SHUTTING_DOWN)
        record = await deps.lookup.find(turn_of(completion_id), caller)
        agent = deps.agents.named(record.model, caller)
        display = display_of(request.headers, deps.settings, agent)
        if not stream:
            return await _whole(deps, record, display)
        after = _cursor(request.headers, starting_after)
        return await _stream(deps, record, display, after=after, include_usage=include_usage)

    async def cancel_chat_completion(request: Request, completion_id: str) -> Cancellation:
        """Cancel a completion. A running one ends within seconds for all its readers; a finished
        one does not change."""
        caller = await deps.admission.admit(request)
        turn = turn_of(completion_id)
        state = await deps.lookup.cancel(turn, caller)
        return Cancellation(id=id_of(turn), state=state)

    for prefix, in_schema in (("/v1", True), ("", False)):
        path = f"{prefix}/chat/completions/{{completion_id}}"
        router.add_api_route(
            path,
            get_chat_completion,
            response_model=None,
            responses={
                200: {"model": ChatCompletion, "content": EVENT_STREAM},
                **errors(is_of_turns=True),
            },
            openapi_extra=KEYED | LAST_EVENT,
            include_in_schema=in_schema,
        )
        router.add_api_route(
            f"{path}/cancel",
            cancel_chat_completion,
            methods=["POST"],
            responses=errors(404),
            openapi_extra=KEYED,
            include_in_schema=in_schema,
        )
    return router


async def _whole(deps: ApiDeps, record: TurnRecord, display: ToolDisplay) -> WholeAnswer:
    if not record.state.is_terminal:
        raise RequestRefused("", code=ErrorCode.TURN_RUNNING)
    return WholeAnswer(
        await deps.lookup.follow(record),
        model=record.model,
        created=record.created_ms // 1000,
        display=display,
        headers={},
        clock=deps.clock,
        files=FileDisplay(deps.links, deps.settings.artifact_display),
    )


async def _stream(
    deps: ApiDeps, record: TurnRecord, display: ToolDisplay, *, after: int, include_usage: bool
) -> ChatStream:
    settings = deps.settings
    turn = await deps.lookup.follow(record, after=after)
    try:
        frames = ChunkFrames(
            turn.id,
            created=record.created_ms // 1000,
            model=record.model,
            include_usage=include_usage,
            display=display,
            is_numbered=True,
            files=FileDisplay(deps.links, settings.artifact_display),
        )
        frames.skip(await deps.lookup.seen(record, upto=turn.relay.cursor))
        return ChatStream(
            turn,
            frames,
            clock=deps.clock,
            headers={},
            commit_after_s=0 if after else settings.commit_after_s,
            ping_interval_s=settings.ping_interval_s,
            send_timeout_s=settings.send_timeout_s,
            queue_display=settings.queue_display,
        )
    except BaseException:
        turn.leave(hung_up=True)
        raise


def _cursor(headers: Mapping[str, str], starting_after: int | None) -> int:
    """The last event that the client saw. The header wins, because a reconnecting reader repeats
    its first URL."""
    value = headers.get("last-event-id", "").strip()
    if not value:
        return starting_after or 0
    if not (value.isascii() and value.isdecimal()) or int(value) > _CURSOR_MAX:
        raise RequestRefused(
            "The header Last-Event-ID must be the `id` of an event of this stream.",
            param="Last-Event-ID",
        )
    return int(value)
