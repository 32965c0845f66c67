"""`POST /v1/chat/completions`: everything that can be refused is refused before a turn exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import Caller, without_key
from api.bodies import held_while_read, json_body
from api.chat_request import ChatRequest, read_chat_request
from api.chunks import ChunkFrames
from api.completion import WholeAnswer
from api.deps import ApiDeps
from api.edge import held_body
from api.hold import OpenTurn
from api.models import ChatCompletion
from api.naming import conversation_name, profile_name, resends_history
from api.openapi import CHAT_BODY, EVENT_STREAM, KEYED, NUMBERS_HEADER, chat_headers, errors
from api.prompt import Prompt, read_messages
from api.repeats import read_repeat
from api.side_requests import SideRules, answer_bound, with_format
from api.sse import ChatStream
from api.submit import Ask
from infra.wire.errors import ErrorCode, RequestRefused
from infra.wire.turns import Lane, OnDisconnect


def chat_routes(deps: ApiDeps) -> APIRouter:
    """Both paths: clients are configured with and without `/v1`."""
    router = APIRouter(tags=["chat"])
    rules = SideRules(deps.settings)

    async def create_chat_completion(request: Request) -> Response:
        """Ask an agent. `X-Conversation-ID` names the conversation the turn belongs to;
        `X-On-Disconnect: continue` lets it go on when the client hangs up; `X-Event-IDs: true`
        numbers a stream's events, for coming back to one that broke; a repeat with the same
        `Idempotency-Key` or `X-Message-ID` is answered by the turn it repeats."""
        caller = await deps.door.enter(request)
        if deps.drain.is_closed:
            raise RequestRefused("", code=ErrorCode.SHUTTING_DOWN)
        is_numbered = _wants_numbers(request.headers)
        chat, ask = await _read(deps, rules, request, caller)
        turn = await deps.turns.open(ask)
        held_body(request).hold(0)  # What the answer needs of it is a few words.
        try:
            return _answer(deps, chat, ask, turn, is_numbered=is_numbered)
        except BaseException:
            turn.leave(hung_up=True)
            raise

    for path, in_schema in (("/v1/chat/completions", True), ("/chat/completions", False)):
        router.add_api_route(
            path,
            create_chat_completion,
            methods=["POST"],
            response_model=None,
            responses={
                200: {"model": ChatCompletion, "content": EVENT_STREAM},
                **errors(408, is_of_turns=True),
            },
            openapi_extra=KEYED | CHAT_BODY | chat_headers(deps.settings.max_header_chars),
            include_in_schema=in_schema,
        )
    return router


async def _read(
    deps: ApiDeps, rules: SideRules, request: Request, caller: Caller
) -> tuple[ChatRequest, Ask]:
    settings = deps.settings
    headers = request.headers
    on_disconnect = _on_disconnect(headers)
    body = await json_body(request)
    held_body(request).hold(held_while_read(body))
    chat = await deps.large.read(len(body), lambda: read_chat_request(body))
    metadata = chat.names
    name = conversation_name(
        headers,
        metadata,
        names=settings.conversation_headers,
        max_chars=settings.max_header_chars,
    )
    model = await deps.catalog.resolve(chat.model, caller)
    if model is None:
        shown = without_key(chat.model, headers)
        raise RequestRefused(
            f"The model `{shown}` does not exist. GET /v1/models lists those that do.",
            code=ErrorCode.MODEL_NOT_FOUND,
            param="model",
        )
    prompt = await deps.large.read(len(body), lambda: read_messages(chat.messages))
    lane = rules.lane_of(chat, headers)
    if lane is Lane.SIDE:
        form = with_format(prompt.system_prompt, chat.form)
        prompt = replace(prompt, system_prompt=form)
    ask = Ask(
        caller=caller,
        model=model,
        asked_model=chat.model,
        prompt=prompt,
        size=len(body),
        name=name,
        is_thin=settings.thin_clients and _may_be_thin(headers, name, prompt),
        on_disconnect=on_disconnect,
        is_streamed=bool(chat.stream),
        lane=lane,
        max_tokens=answer_bound(chat),
        profile=profile_name(headers, metadata, known=settings.egress_profiles),
        repeat=read_repeat(headers, body, max_chars=settings.max_header_chars),
    )
    return chat, ask


def _may_be_thin(headers: Mapping[str, str], name: str | None, prompt: Prompt) -> bool:
    """A lone message under a name, from no client that is known to send its history."""
    is_lone = len(prompt.sent) == 1 and not prompt.has_answers
    return name is not None and is_lone and not resends_history(headers)


def _answer(
    deps: ApiDeps, chat: ChatRequest, ask: Ask, turn: OpenTurn, *, is_numbered: bool
) -> Response:
    settings = deps.settings
    headers = {"x-conversation-id": ask.name} if ask.name else {}
    created = deps.clock.unix_ms() // 1000
    if not chat.stream:
        return WholeAnswer(
            turn,
            model=chat.model,
            created=created,
            display=settings.tool_display,
            headers=headers,
            clock=deps.clock,
            blanks_every_s=settings.blanks_every_s,
        )
    frames = ChunkFrames(
        turn.id,
        created=created,
        model=chat.model,
        include_usage=chat.wants_usage,
        display=settings.tool_display,
        head=turn.head,
        is_numbered=is_numbered,
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


def _on_disconnect(headers: Mapping[str, str]) -> OnDisconnect:
    value = headers.get("x-on-disconnect", "").strip().lower()
    try:
        return OnDisconnect(value) if value else OnDisconnect.CANCEL
    except ValueError:
        raise RequestRefused(
            "The header X-On-Disconnect must be `cancel` or `continue`.", param="X-On-Disconnect"
        ) from None
