"""An answer that is not streamed: collected, then sent at once."""

from __future__ import annotations

import json
import logging
import math

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.chat.answer.call_pieces import called, tool_call
from api.chat.answer.made import FileDisplay, shown_files
from api.chat.answer.shapes import AnswerFiles, AnswerMessage, ChatCompletion, Choice
from api.chat.answer.vocabulary import completion_id, finish_reason, usage_of
from api.errors import error_response
from api.http.disconnect import HungUp, while_connected
from api.turns.following.open_answer import OpenAnswer
from api.turns.shown.channels import Channels, is_sight, read_end
from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.runtime.settings import ToolDisplay
from infra.wire.errors import AgClusterError
from infra.wire.events import ClientCall, is_end
from infra.wire.text.characters import whole

log = logging.getLogger(__name__)


class WholeAnswer(Response):
    """The answer to `stream: false`. It owns the open answer and leaves it, whatever happens.

    Raises none of our errors: a failed turn is answered with its status. The relay limits the wait.
    With `blanks_every_s`, blanks are sent meanwhile, which JSON allows before a value, so that no
    load balancer closes the connection; a turn that fails later has its error in a body with status
    200.
    """

    def __init__(
        self,
        turn: OpenAnswer,
        *,
        model: str,
        created: int,
        display: ToolDisplay,
        headers: dict[str, str],
        clock: Clock,
        blanks_every_s: float = 0.0,
        files: FileDisplay | None = None,
    ) -> None:
        super().__init__(headers=headers)
        self._clock = clock
        self._blanks_every_s = blanks_every_s or math.inf
        self._has_begun = False
        self._turn = turn
        self._model = model
        self._created = created
        self._display = display
        self._files = files
        self._extra = headers
        self._had_effects = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_hung_up = True
        try:
            await while_connected(scope, receive, self._run(scope, receive, send))
            has_hung_up = False
        except HungUp:
            log.debug("client left before its answer", extra=fields(turn=self._turn.id))
        finally:
            self._turn.leave(hung_up=has_hung_up)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(send)
        await self._turn.answered()
        if self._has_begun:
            await send({"type": "http.response.body", "body": answer.body, "more_body": False})
        else:
            await answer(scope, receive, send)
        if self._turn.relay.is_ended:  # Otherwise we failed, not the turn: it can still be read.
            self._turn.delivered()

    async def _answer(self, send: Send) -> Response:
        try:
            completion = await self._gather(send)
        except AgClusterError as error:
            refusal = error_response(error, had_effects=self._had_effects)
            refusal.headers.update(self._extra)
            return refusal
        return Response(
            completion.model_dump_json(), headers=self._extra, media_type="application/json"
        )

    async def _gather(self, send: Send) -> ChatCompletion:
        # Nothing is live in it, and Open WebUI folds only what it streams.
        is_for_pages = self._display in (ToolDisplay.INLINE, ToolDisplay.LINES)
        display = ToolDisplay.REASONING if is_for_pages else self._display
        channels = Channels(display, head=self._turn.head)
        said: dict[bool, list[str]] = {False: [], True: []}
        calls: list[ClientCall] = []
        payload = b""
        blank_at_s = self._clock.monotonic() + self._blanks_every_s
        while not self._turn.relay.is_ended:
            events = await self._turn.relay.next(until_s=blank_at_s)
            for payload in events:
                if (shown := channels.piece(payload)) is not None:
                    said[shown[0]].append(json.loads(shown[1]))
                elif (call := channels.call(payload)) is not None:
                    calls.append(call)
                self._had_effects |= is_sight(payload) and not is_end(payload)
            if self._clock.monotonic() >= blank_at_s and not self._turn.relay.is_ended:
                await self._send_blank(send)
                blank_at_s = self._clock.monotonic() + self._blanks_every_s
        end = read_end(payload)
        made = shown_files(self._files, end, has_form=channels.has_form)
        text = whole("".join(said[False])) + (made.text if made else "")
        is_legacy = any(call.is_legacy for call in calls)
        message = AnswerMessage(
            content=None if calls and not text else text,
            reasoning_content=whole("".join(said[True])) or None,
            tool_calls=None if is_legacy or not calls else list(map(tool_call, calls)),
            function_call=called(calls[0]) if is_legacy else None,
            annotations=[dict(one) for one in made.annotations] or None if made else None,
        )
        return ChatCompletion(
            id=completion_id(self._turn.id),
            created=self._created,
            model=self._model,
            choices=[
                Choice(
                    message=message,
                    finish_reason=finish_reason(end.end_reason, is_legacy=is_legacy),
                )
            ],
            usage=usage_of(end.usage),
            agcluster=AnswerFiles.model_validate(made.metadata) if made else None,
        )

    async def _send_blank(self, send: Send) -> None:
        if not self._has_begun:
            self._has_begun = True
            head = Response(headers=self._extra, media_type="application/json")
            del head.headers["content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": head.raw_headers})
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
