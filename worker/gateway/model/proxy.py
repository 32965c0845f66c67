"""An agent's access to the model: passes requests on with the caller's key, and answers byte for
byte.

Only `POST /v1/messages` and `/v1/messages/count_tokens` are passed on, only while a turn of the
session is open, and only for models that the turn may use and within its budget. The agent's own
authentication is dropped. An answer is passed on as it arrives, a stream in whole events. If a
retry cannot help, the answer says so (`x-should-retry: false`). When either side disconnects, the
other is cut off at once. If an answer breaks upstream, it breaks here too and never looks complete;
only its current text block is finished, so that the agent continues from there (`OpenBlock`). An
answer that exceeds the budget is cut between two events and ends with an error, and the CLI's next
try is refused. So is an answer with far more text than the turn's client wants (`SpokenText`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from io import BytesIO

import aiohttp
from aiohttp import web

from infra.metrics.gateway import MODEL_REFUSALS
from infra.runtime.logs import RatedLog, bound, fields
from infra.runtime.threads import in_thread
from infra.wire.errors import AgClusterError, ErrorCode
from infra.wire.events import Usage
from infra.wire.text.words import SENTENCES
from worker.gateway.bounds import Pace, Places, PlacesTaken, TooFast
from worker.gateway.keys import KeyWiped
from worker.gateway.model.answers import (
    StreamBroken,
    begin_answer,
    break_off,
    check_answer,
    read_on,
)
from worker.gateway.model.headers import retry_after_s, to_upstream
from worker.gateway.model.metering import CallMeter, Estimate
from worker.gateway.model.open_block import OpenBlock
from worker.gateway.model.refusals import CallRefused, error_event, unreachable
from worker.gateway.model.request import (
    Judged,
    check_target,
    is_counted,
    judge,
    read_body,
)
from worker.gateway.model.spoken_text import is_for_user
from worker.gateway.model.upstream import Upstream
from worker.gateway.model.upstream_watch import UpstreamWatch
from worker.gateway.sessions import (
    BudgetSpent,
    GatewaySession,
    Traffic,
    Turn,
    TurnOver,
)

log = logging.getLogger(__name__)

HELLO = "/api/hello"
LARGE_BYTES = 128 * 1024
CHARGED_BYTES = 1024 * 1024
UPSTREAM_BODY_MAX_BYTES = 32 * 1024 * 1024
"""The limit of the Messages API itself."""

REFUSALS_LOGGED_MAX = 120
"""Log lines per minute about a session's refusals."""
_BUDGET_KIND = "billing_error"
_BUDGET_WORDS = SENTENCES[ErrorCode.BUDGET_EXCEEDED]
_BROKEN_EVENT = error_event("api_error", "The model's service broke off its answer.")
_BUDGET_EVENT = error_event(_BUDGET_KIND, _BUDGET_WORDS)
_TEXT_KIND = "invalid_request_error"
_TEXT_WORDS = "The answer has reached the length that its client set."
_TEXT_EVENT = error_event(_TEXT_KIND, _TEXT_WORDS)


@dataclass(frozen=True)
class ModelLimits:
    """Limits of one session's model calls."""

    models: frozenset[str] = frozenset()
    """Models for turns that do not name any; empty for any model."""
    body_max_bytes: int = UPSTREAM_BODY_MAX_BYTES
    bodies_max_bytes: int = 512 * 1024 * 1024
    """Total size of large bodies, of all agents together, until they are sent."""
    is_search_open: bool = True
    """Whether the model's service may search the web for an agent, which bypasses its egress
    policy."""
    calls_max: int = 32
    calls_per_minute: int = 600
    """0: no limit."""
    first_turn_s: float = 2.0
    """Seconds that a call waits for the session's first turn. After a restart of the gateway, the
    CLI's retry may arrive between the worker's two commands."""
    rate_wait_s: float = 10.0
    """Seconds that a call beyond the rate waits before it is refused."""
    agent_silence_s: float = 60.0
    """An agent that sends or reads nothing for this many seconds during a call is disconnected."""


class ModelBounds:
    """One session's current use of these limits."""

    def __init__(self, limits: ModelLimits) -> None:
        self.calls = Places(limits.calls_max)
        # Bodies are held as a whole: two of the largest, or any number of usual ones.
        self.body_bytes = Places(2 * limits.body_max_bytes)
        self.rate = Pace(limits.calls_per_minute, what="model calls", wait_s=limits.rate_wait_s)
        self.log = RatedLog(log, lines_max=REFUSALS_LOGGED_MAX)

    def charge(self, size: int) -> None:
        """A body counts whether it is allowed or not: each megabyte as much as a call."""
        self.rate.charge(size // CHARGED_BYTES)


class _AgentGone(AgClusterError):
    """The agent disconnected, or reads nothing."""


@dataclass(frozen=True)
class _Sent:
    """A call to which the upstream has begun to answer."""

    model: str
    answer: aiohttp.ClientResponse
    estimate: Estimate
    is_final: bool
    """Whether it has failed too often."""
    is_for_user: bool
    """Whether its text is part of the turn's answer."""


class ModelProxy:
    """Answers the requests that arrive on `model.sock`."""

    def __init__(
        self, upstream: Upstream, watch: UpstreamWatch, limits: ModelLimits, traffic: Traffic
    ) -> None:
        self._upstream = upstream
        self._watch = watch
        self._limits = limits
        self._traffic = traffic
        self._bodies = Places(limits.bodies_max_bytes)
        self._large = asyncio.Semaphore()

    def bounds(self) -> ModelBounds:
        """The limits of one session."""
        return ModelBounds(self._limits)

    async def answer(
        self, session: GatewaySession, bounds: ModelBounds, request: web.BaseRequest
    ) -> web.StreamResponse:
        """Answer one request of the session's agent."""
        try:
            if request.method in ("HEAD", "GET") and request.raw_path == HELLO:
                return web.Response()
            check_target(request)
            return await self._call(session, bounds, request)
        except CallRefused as refused:
            MODEL_REFUSALS.labels(refused.kind).inc()
            bounds.log.info(
                "model call refused",
                conversation=session.conversation,
                turn=session.turn and session.turn.id,
                method=request.method,
                status=refused.status,
                reason=refused.message,
            )
            return refused.as_response()

    async def _call(
        self, session: GatewaySession, bounds: ModelBounds, request: web.BaseRequest
    ) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        try:
            await session.wait_first_turn(self._limits.first_turn_s)
            turn = session.running_turn()
            # Not for good: the next call over this connection may be of another turn.
            about = bound(turn=turn.id, conversation=session.conversation)
            with about, bounds.calls.take(), self._traffic.call():
                async with turn.while_open():
                    await bounds.rate.wait()
                    async with self._sent(turn, bounds, request) as sent:
                        answer = sent.answer
                        response = begin_answer(answer, is_retry_pointless=sent.is_final)
                        with self._metered(turn, sent, request) as meter:
                            await response.prepare(request)
                            await self._relay(turn, meter, sent, response)
        except (TurnOver, KeyWiped) as error:
            if response is None or not response.prepared:
                message = f"No model call is possible now: {error}."
                raise CallRefused(403, "permission_error", message) from error
            break_off(request)
        except (PlacesTaken, TooFast) as error:
            raise CallRefused(
                429,
                "rate_limit_error",
                f"Too many model calls of this agent: {error}.",
                is_retry_pointless=False,
                retry_after_s=self._limits.rate_wait_s if isinstance(error, TooFast) else None,
            ) from error
        except BudgetSpent as error:
            raise CallRefused(402, _BUDGET_KIND, _BUDGET_WORDS) from error
        except StreamBroken as error:
            turn_id = session.turn and session.turn.id
            told = fields(turn=turn_id, conversation=session.conversation, reason=error)
            log.warning("upstream broke a stream", extra=told)
            break_off(request)
        except _AgentGone as error:
            log.debug("agent left: %s", error)
            break_off(request)
        assert response is not None
        return response

    @asynccontextmanager
    async def _sent(
        self, turn: Turn, bounds: ModelBounds, request: web.BaseRequest
    ) -> AsyncIterator[_Sent]:
        """The call with the upstream's answer, which is closed at the end (with its connection,
        unless it was read to the end). If the call is given up before that, it is metered by an
        estimate."""
        body_max = self._limits.body_max_bytes
        size = min(request.content_length or body_max, body_max)
        with bounds.body_bytes.take(size), self._room_for(size):
            body = await read_body(
                request, max_bytes=body_max, silence_s=self._limits.agent_silence_s
            )
            bounds.charge(len(body))
            judged = await self._judged(turn, body)
            turn.require_budget()
            for_user = is_for_user(request.headers)
            if for_user and turn.spoken_text.is_over:
                raise CallRefused(400, _TEXT_KIND, _TEXT_WORDS)
            headers = to_upstream(request.headers.items(), api_key=turn.key.reveal())
            headers["content-length"] = str(len(body))
            model, estimate = judged.model, partial(_same, judged.estimate)
            unanswered = turn.counter.unanswered(model, estimate)
            try:
                with unanswered if is_counted(request) else nullcontext():
                    answer = await self._upstream.send(request.raw_path, headers, BytesIO(body))
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                turn.counter.fail(self._watch.error_of(error), model)
                is_final = turn.failed_tries.add(judged.digest)
                raise unreachable(turn.id, error, is_final=is_final) from error
            self._watch.answered()
            del body  # The answer may take minutes.
        try:
            check_answer(answer)
            is_error = answer.status >= HTTPStatus.BAD_REQUEST
            is_final = is_error and turn.failed_tries.add(judged.digest)
            yield _Sent(model, answer, estimate, is_final, for_user)
        finally:
            answer.close()

    async def _judged(self, turn: Turn, body: bytes) -> Judged:
        """Check the call. Large bodies are parsed in a thread, one after the other, so that one
        agent's do not delay the streams of others. If the agent disconnects meanwhile, it keeps its
        places until its body has been parsed; otherwise it could have any number of bodies parsed
        at the same time."""
        work = partial(
            judge,
            body,
            models=turn.models or self._limits.models,
            is_search_open=self._limits.is_search_open,
        )
        if len(body) <= LARGE_BYTES:
            return work()
        async with self._large:
            return await in_thread(work)

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        """Reserve memory for a large body, shared with all other agents. Raises `CallRefused`."""
        if size <= LARGE_BYTES:
            yield
            return
        held = ExitStack()
        try:
            held.enter_context(self._bodies.take(size))
        except PlacesTaken as error:
            message = "The gateway holds as many requests as it takes."
            raise CallRefused(
                529, "overloaded_error", message, is_retry_pointless=False, retry_after_s=1
            ) from error
        with held:
            yield

    @contextmanager
    def _metered(self, turn: Turn, sent: _Sent, request: web.BaseRequest) -> Iterator[CallMeter]:
        answer = sent.answer
        meter = CallMeter(
            is_stream=answer.content_type == "text/event-stream",
            status=answer.status,
            retry_after_s=retry_after_s(answer.headers),
            estimate=sent.estimate,
        )
        if not is_counted(request):
            yield meter
            return
        with turn.counter.call(meter, sent.model):
            yield meter

    async def _relay(
        self,
        turn: Turn,
        meter: CallMeter,
        sent: _Sent,
        response: web.StreamResponse,
    ) -> None:
        """Pass the answer on and meter it. A stream that exceeds the budget, or says too much, ends
        there.

        A stream whose final figures have arrived is not cut, because that would save nothing.
        """
        block = OpenBlock()
        while chunk := await self._read_on(sent.answer, meter, block, response):
            meter.feed(chunk)
            is_open = meter.is_stream and not meter.is_final
            if is_open and turn.is_spent and block.is_between_events:
                turn.counter.is_over_budget = True
                await self._cut(turn, response, _BUDGET_EVENT, why="the budget is spent")
                return
            if meter.is_stream:
                chunk = block.feed(chunk)
                if sent.is_for_user:
                    turn.spoken_text.add(chunk)
            await self._write(response, chunk)
            if (
                is_open
                and turn.spoken_text.is_over
                and sent.is_for_user
                and block.is_between_events
            ):
                last = block.ending() + _TEXT_EVENT
                await self._cut(turn, response, last, why="enough was said")
                return
        await self._write(response, block.rest())
        meter.end()

    async def _cut(
        self, turn: Turn, response: web.StreamResponse, last: bytes, *, why: str
    ) -> None:
        """End a stream with these bytes."""
        log.info("stream cut", extra=fields(turn=turn.id, reason=why))
        await self._write(response, last)
        await response.write_eof()

    async def _read_on(
        self,
        answer: aiohttp.ClientResponse,
        meter: CallMeter,
        block: OpenBlock,
        response: web.StreamResponse,
    ) -> bytes:
        """The next bytes; empty at the end.

        If they break off in a text block, the block is finished, followed by an error event,
        because a broken connection may lose what was written last. Raises `StreamBroken`.
        """
        try:
            return await read_on(answer, meter)
        except StreamBroken as error:
            if not (ending := block.ending()):
                raise
            log.warning("upstream broke a stream", extra=fields(reason=error, is_finished=True))
            await self._write(response, ending + _BROKEN_EVENT)
            await response.write_eof()
            return b""

    async def _write(self, response: web.StreamResponse, chunk: bytes) -> None:
        if not chunk:
            return
        try:
            async with asyncio.timeout(self._limits.agent_silence_s):
                await response.write(chunk)
        except (OSError, TimeoutError) as error:
            raise _AgentGone(type(error).__name__) from error


def _same(usage: Usage) -> Usage:
    return usage
