"""`POST /v1/chat/completions`. Everything that can be refused is refused before a turn exists."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.chat.answer.chunks import ChunkFrames
from api.chat.answer.made import FileDisplay
from api.chat.answer.shapes import ChatCompletion
from api.chat.answer.stream import ChatStream
from api.chat.answer.whole import WholeAnswer
from api.chat.messages.side_requests import SideRules
from api.chat.options.display import display_of
from api.chat.read import ChatReader
from api.chat.request import ChatRequest
from api.deps import ApiDeps
from api.files.given import FileBounds
from api.http.edge import forget_headers, held_body
from api.routes.openapi import CHAT_BODY, EVENT_STREAM, KEYED, NUMBERS_HEADER, chat_headers, errors
from api.turns.ask import Ask
from api.turns.following.open_answer import OpenAnswer
from infra.runtime.settings import ToolDisplay
from infra.wire.errors import ErrorCode, RequestRefused

PATHS = ("/v1/chat/completions", "/chat/completions")
"""Both, because clients are configured with and without `/v1`. Only the first is documented."""


class ChatCompletions:
    """The endpoint. `api.app` gives it its requests directly (`api.http.hot_route`)."""

    def __init__(self, deps: ApiDeps) -> None:
        self._deps = deps
        self._reader = ChatReader(
            deps.settings,
            egress_profiles=frozenset(deps.settings.egress_profiles),
            rules=SideRules(deps.settings, models=deps.settings),
            agents=deps.agents,
            large=deps.large,
            files=deps.files,
            file_bounds=FileBounds.of(deps.settings),
        )

    async def create_chat_completion(self, request: Request) -> Response:
        """Ask an agent. `X-Conversation-ID` names the turn's conversation. With `X-On-Disconnect:
        continue` the turn continues when the client disconnects. With `X-Event-IDs: true` a
        stream's events are numbered, so that a broken stream can be resumed. A repeat with the same
        `Idempotency-Key` or `X-Message-ID` is answered by the turn that it repeats."""
        deps = self._deps
        caller = await deps.admission.admit(request)
        if deps.drain.is_closed:
            raise RequestRefused("", code=ErrorCode.SHUTTING_DOWN)
        is_numbered = _wants_numbers(request.headers)
        chat, ask = await self._reader.read(request, caller)
        display = display_of(request.headers, deps.settings, ask.profile)
        turn = await deps.turns.open(ask)
        held_body(request).hold(0)  # The answer needs only a few fields of it.
        forget_headers(request)
        try:
            return _answer(deps, chat, ask, turn, display=display, is_numbered=is_numbered)
        except BaseException:
            turn.leave(hung_up=True)
            raise


def chat_routes(chat: ChatCompletions, *, max_header_chars: int) -> APIRouter:
    """The endpoint in the document."""
    router = APIRouter(tags=["chat"])
    for path in PATHS:
        router.add_api_route(
            path,
            chat.create_chat_completion,
            methods=["POST"],
            response_model=None,
            responses={
                200: {"model": ChatCompletion, "content": EVENT_STREAM},
                **errors(408, is_of_turns=True),
            },
            openapi_extra=KEYED | CHAT_BODY | chat_headers(max_header_chars),
            include_in_schema=path == PATHS[0],
        )
    return router


def _answer(
    deps: ApiDeps,
    chat: ChatRequest,
    ask: Ask,
    turn: OpenAnswer,
    *,
    display: ToolDisplay,
    is_numbered: bool,
) -> Response:
    settings = deps.settings
    files = FileDisplay(deps.links, settings.artifact_display)
    headers = {"x-conversation-id": ask.name} if ask.name else {}
    created = deps.clock.unix_ms() // 1000
    if not chat.stream:
        return WholeAnswer(
            turn,
            model=chat.model,
            created=created,
            display=display,
            headers=headers,
            clock=deps.clock,
            blanks_every_s=settings.blanks_every_s,
            files=files,
        )
    frames = ChunkFrames(
        turn.id,
        created=created,
        model=chat.model,
        include_usage=chat.wants_usage,
        display=display,
        head=turn.head,
        is_numbered=is_numbered,
        files=files,
    )
    return ChatStream(
        turn,
        frames,
        clock=deps.clock,
        headers=headers,
        commit_after_s=settings.commit_after_s,
        ping_interval_s=settings.ping_interval_s,
        send_timeout_s=settings.send_timeout_s,
        queue_display=settings.queue_display,
    )


def _wants_numbers(headers: Mapping[str, str]) -> bool:
    value = headers.get(NUMBERS_HEADER, "").strip().lower()
    if value not in ("", "true", "false"):
        raise RequestRefused(
            f"The header {NUMBERS_HEADER} must be `true` or `false`.", param=NUMBERS_HEADER
        )
    return value == "true"
