"""Model calls of the side lane: one request of a worker, without an agent or session.

The worker sends the body and the sealed key; the upstream's status and bytes are passed back as
they arrive. The key lives for the duration of the call. If the worker disconnects, the handler is
cancelled, which ends the upstream call; an answer that breaks upstream breaks here too.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from io import BytesIO

import aiohttp
from aiohttp import web

from infra.runtime.clock import Clock
from infra.runtime.logs import fields
from infra.runtime.sealing import Sealer
from infra.wire.gateway import SideCall
from worker.gateway.bounds import Places, PlacesTaken
from worker.gateway.keys import TurnKey, open_key
from worker.gateway.model.answers import (
    StreamBroken,
    begin_answer,
    break_off,
    check_answer,
    read_on,
)
from worker.gateway.model.headers import retry_after_s, to_upstream
from worker.gateway.model.metering import CallMeter, Estimate, Ledger, TurnCounter
from worker.gateway.model.refusals import CallRefused, too_large, unreachable
from worker.gateway.model.request import MESSAGES, estimated_cost
from worker.gateway.model.upstream import Upstream
from worker.gateway.model.upstream_watch import UpstreamWatch
from worker.gateway.sessions import Traffic

log = logging.getLogger(__name__)

CALLS_MAX = 256
API_VERSION = "2023-06-01"
_WRITE_S = 60.0
"""A worker that reads nothing for this many seconds is disconnected."""


class SideCalls:
    """Answers `POST /sessions/{conversation}/complete`."""

    def __init__(
        self,
        upstream: Upstream,
        watch: UpstreamWatch,
        *,
        sealer: Sealer,
        clock: Clock,
        traffic: Traffic,
        ledger: Ledger,
        body_max_bytes: int,
    ) -> None:
        self.body_max_bytes = body_max_bytes
        self._upstream = upstream
        self._watch = watch
        self._sealer = sealer
        self._clock = clock
        self._traffic = traffic
        self._ledger = ledger
        self._places = Places(CALLS_MAX)

    async def answer(self, request: web.Request, call: SideCall) -> web.StreamResponse:
        """Make the call. Raises `KeyNotOpened`; other refusals have the upstream's own format.

        Its usage is read like a turn's, by closing it, even if it broke off.
        """
        key = open_key(self._sealer, call, now_ms=self._clock.unix_ms())
        try:
            with self._places.take(), self._traffic.call():
                counter = self._ledger.open(call.turn)
                async with self._sent(call, key, counter) as (answer, estimate):
                    return await self._relay(request, call, counter, answer, estimate)
        except CallRefused as refused:
            log.info("side call refused", extra=fields(turn=call.turn, reason=refused.message))
            return refused.as_response()
        except PlacesTaken as error:
            message = f"Too many side requests on this host: {error}."
            busy = CallRefused(429, "rate_limit_error", message, is_retry_pointless=False)
            return busy.as_response()
        finally:
            key.wipe()
            self._ledger.close(call.turn)

    @asynccontextmanager
    async def _sent(
        self, call: SideCall, key: TurnKey, counter: TurnCounter
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, Estimate]]:
        """The upstream's answer, closed at the end, and the call's estimated cost, which is metered
        if the call is given up before that. Raises `CallRefused`."""
        body = json.dumps(call.body, separators=(",", ":")).encode()
        if len(body) > self.body_max_bytes:
            raise too_large(self.body_max_bytes)
        ours = {"content-type": "application/json", "anthropic-version": API_VERSION}
        headers = to_upstream(ours.items(), api_key=key.reveal())
        headers["content-length"] = str(len(body))
        estimate = partial(estimated_cost, body)
        try:
            with counter.unanswered(_model_of(call), estimate):
                answer = await self._upstream.send(MESSAGES, headers, BytesIO(body))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            counter.fail(self._watch.error_of(error), _model_of(call))
            raise unreachable(call.turn, error) from error
        self._watch.answered()
        try:
            check_answer(answer)
            yield answer, estimate
        finally:
            answer.close()

    async def _relay(
        self,
        request: web.Request,
        call: SideCall,
        counter: TurnCounter,
        answer: aiohttp.ClientResponse,
        estimate: Estimate,
    ) -> web.StreamResponse:
        response = begin_answer(answer)
        meter = CallMeter(
            is_stream=answer.content_type == "text/event-stream",
            status=answer.status,
            retry_after_s=retry_after_s(answer.headers),
            estimate=estimate,
        )
        try:
            with counter.call(meter, _model_of(call)):
                await response.prepare(request)
                while chunk := await read_on(answer, meter):
                    meter.feed(chunk)
                    async with asyncio.timeout(_WRITE_S):
                        await response.write(chunk)
                meter.end()
        except StreamBroken as error:
            log.warning("upstream broke a stream", extra=fields(turn=call.turn, reason=error))
            break_off(request)
        except (OSError, TimeoutError) as error:
            log.debug("worker left: %s", type(error).__name__, extra=fields(turn=call.turn))
            break_off(request)
        finally:
            log.info("side call over", extra=_told(call, answer.status, meter))
        return response


def _model_of(call: SideCall) -> str:
    return str(call.body.get("model", ""))


def _told(call: SideCall, status: int, meter: CallMeter) -> dict[str, object]:
    used = meter.usage
    return fields(
        turn=call.turn,
        tenant=call.tenant,
        status=status,
        input_tokens=used.total_input_tokens,
        output_tokens=used.output_tokens,
    )
