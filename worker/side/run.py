"""Runs one side turn: one streamed model call that becomes events in the turn log. Only an answer
that has to be JSON and is not takes another call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus

from infra.metrics.worker import WAIT_SECONDS
from infra.runtime.logs import bound, fields
from infra.runtime.threads import in_thread
from infra.store.turns.turns import Claimed, TurnRecord
from infra.wire.endings import declared_end, interrupted_end
from infra.wire.errors import (
    ContentNotOpened,
    ErrorCode,
    GatewayUnavailable,
    LeaseLost,
    MalformedMessage,
)
from infra.wire.events import EndReason, Event, TextDelta, TurnEnded, Usage, encode_event
from infra.wire.form.tool import TRIES
from infra.wire.gateway import SideCall
from infra.wire.ids import TurnId
from infra.wire.link import InterruptReason
from infra.wire.options import ClientTools
from infra.wire.states import ConversationState, TurnState
from infra.wire.text.bounds import TextBounds
from infra.wire.turns import FileBlock, TurnRequest
from worker.gateway_client.client import CommandRefused
from worker.ownership import HeldLease
from worker.parts import SideParts
from worker.side.client_calls import client_calls
from worker.side.formed_answer import FormedAnswer
from worker.side.messages_api import EXTRAS, AnswerStream, refusal, request_body, without_extras
from worker.side.steps import end_before_start, end_of_broken_call
from worker.turns.files.file_bytes import FileBytes, with_stored_files
from worker.turns.limits.interruption import Interruption
from worker.turns.limits.spending import Spending
from worker.turns.output import TurnOutput
from worker.waiting import FIRST_PAUSE_S, LONGEST_PAUSE_S

log = logging.getLogger(__name__)


_GATEWAY_PATIENCE_S = 5.0
"""Seconds to wait for a gateway that restarts, before the first output."""


_BODY_END_S = 0.2
"""Seconds to wait for the body to end after its last event."""


class SideRun:
    """One running side turn, under its conversation's lease."""

    def __init__(self, parts: SideParts, held: HeldLease, turn: TurnId) -> None:
        self._parts = parts
        self._held = held
        self._turn = turn
        self._stop = Interruption()
        self._answer = AnswerStream()
        self._formed: FormedAnswer | None = None
        self._bounds = TextBounds()
        self._used = Usage()
        """What the calls before the current one used."""

    @property
    def _usage(self) -> Usage:
        return self._used + self._answer.usage

    def interrupt(self, reason: InterruptReason) -> None:
        """Stop it. The first reason counts."""
        self._stop.ask(reason)

    def forget(self) -> None:
        """No longer renew its lease."""
        self._parts.ownership.forget(self._held)

    async def run(self) -> None:
        """From the claim to the end. Raises `LeaseLost` and `StoreUnavailable`. If cancelled, it
        stops where it is."""
        with bound(turn=self._turn, conversation=self._held.conversation):
            await self._run_bound()

    async def _run_bound(self) -> None:
        claimed = await self._claim()
        if claimed is not None:
            try:
                async with asyncio.TaskGroup() as group:
                    losing = group.create_task(self._held.until_lost())
                    await self._run(claimed)
                    losing.cancel()
            except BaseExceptionGroup as failed:
                if failed.subgroup(LeaseLost):
                    raise LeaseLost(self._held.conversation, self._held.fence) from None
                raise
        await self._parts.ownership.release(self._held, ConversationState.COLD)

    async def _claim(self) -> Claimed | None:
        """The turn, if it should run. A turn that cannot be read here (of another secret or
        version) is ended, because retrying would not help."""
        turns = self._parts.turns
        try:
            return await turns.claim(self._held.lease)
        except (ContentNotOpened, MalformedMessage) as error:
            log.error("turn not read: %s", error, extra=fields(turn=self._turn))
            if record := await turns.get(self._turn):
                output = TurnOutput(self._parts, self._held, record)
                await self._finish(record, declared_end(ErrorCode.INTERNAL), output)
            return None

    async def _run(self, claimed: Claimed) -> None:
        record = claimed.record
        waited_ms = self._parts.clock.unix_ms() - record.created_ms
        WAIT_SECONDS.labels(record.lane.value).observe(max(0, waited_ms) / 1000)
        log.info("side turn claimed", extra=fields(turn=record.turn, attempt=record.attempt))
        output = TurnOutput(self._parts, self._held, record)
        async with asyncio.TaskGroup() as group:
            logging_events = group.create_task(output.run())
            if record.cancel is not None:
                self.interrupt(InterruptReason.CANCELLED)
            end = end_before_start(state=record.state, seq=record.seq)
            if end is None:
                end = await self._until_stopped(claimed, output)
            await self._finish(record, end, output)
            logging_events.cancel()

    async def _until_stopped(self, claimed: Claimed, output: TurnOutput) -> TurnEnded:
        """The answer's end, unless the deadline or a cancel request comes first."""
        async with asyncio.TaskGroup() as group:
            speaking = group.create_task(self._speak(claimed, output))
            stopping = group.create_task(
                self._stop.asked(self._parts.clock, within_s=claimed.left_s)
            )
            await asyncio.wait({speaking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            is_answered = speaking.done()
            speaking.cancel()
            stopping.cancel()
        if is_answered:
            return speaking.result()
        end = interrupted_end(self._stop.reason or InterruptReason.DEADLINE)
        return end.model_copy(update={"usage": self._usage})

    async def _speak(self, claimed: Claimed, output: TurnOutput) -> TurnEnded:
        spending = Spending(self._parts, self._held, claimed.record)
        if end := await spending.begin():
            return end
        request = await self._with_files(claimed.request)
        call = self._call(claimed, request, spending.budget_tokens)
        form = claimed.request.turn_options.answer_form
        functions = claimed.request.turn_options.client_tools
        # The model's service counts the tokens, unless there are thoughts among them.
        options = claimed.request.turn_options
        limit = options.max_tokens or self._parts.side.side_max_tokens
        self._bounds = TextBounds(
            stop=options.stop, max_tokens=limit if "thinking" in call.body else None
        )
        if form is None:
            end = await self._answered(call, output)
            return self._with_calls(end, functions, output)
        self._formed = FormedAnswer(form, budget_tokens=spending.budget_tokens)
        return await self._give(self._formed, call, output, functions)

    async def _give(
        self,
        formed: FormedAnswer,
        call: SideCall,
        output: TurnOutput,
        functions: ClientTools | None,
    ) -> TurnEnded:
        """The answer in its form: a model that misses it is asked again, a few times."""
        for _ in range(TRIES):
            end = await self._answered(call, output)
            end = self._with_calls(end.model_copy(update={"usage": self._usage}), functions, output)
            if (body := formed.unforced(call.body, end)) is not None:
                call = call.model_copy(update={"body": body})
                continue
            if end.state is not TurnState.DONE or end.end_reason is not EndReason.DONE:
                return end
            said = await in_thread(partial(formed.read, self._answer))
            if said is not None:
                for event in said:
                    self._say(event, output)
                self._say_held(output)
                return end
            self._used, self._answer = self._usage, AnswerStream()
            body = formed.again(call.body, self._used)
            if body is None:
                return declared_end(ErrorCode.BUDGET_EXCEEDED).model_copy(
                    update={"usage": self._used}
                )
            call = call.model_copy(update={"body": body})
        return declared_end(ErrorCode.FORM_NOT_KEPT).model_copy(update={"usage": self._used})

    def _with_calls(
        self, end: TurnEnded, functions: ClientTools | None, output: TurnOutput
    ) -> TurnEnded:
        """The end of an answer, after its calls of the client's functions."""
        if functions is None or end.state is not TurnState.DONE:
            return end
        calls = client_calls(self._answer.calls, functions)
        if not calls or end.end_reason is not EndReason.DONE:
            return end
        for call in calls:
            output.say(encode_event(call))
        return end.model_copy(update={"end_reason": EndReason.CALLS})

    async def _answered(self, call: SideCall, output: TurnOutput) -> TurnEnded:
        """One answer. A call that broke before the first output is made again."""
        give_up_s = self._parts.clock.monotonic() + _GATEWAY_PATIENCE_S
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._listen(call, output)
            except CommandRefused as error:
                log.error("gateway refused: %s", error, extra=fields(turn=call.turn))
                broken: Exception = error
            except GatewayUnavailable as error:
                log.warning("no answer: %s", error, extra=fields(turn=call.turn))
                broken = error
            except Exception as error:
                log.exception("side turn failed inside the worker", extra=fields(turn=call.turn))
                broken = error
            end = end_of_broken_call(
                broken,
                has_spoken=output.n > 0,
                is_patient=self._parts.clock.monotonic() + pause_s <= give_up_s,
                usage=self._usage,
            )
            if end is not None:
                return end
            await self._parts.clock.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _with_files(self, request: TurnRequest) -> TurnRequest:
        """With what the model can read of files that it names by their ids."""
        said = [*(message.content for message in request.history), request.prompt]
        if not any(isinstance(block, FileBlock) for content in said for block in content):
            return request
        *history, prompt = await with_stored_files(said, FileBytes(self._parts.files))
        messages = zip(request.history, history, strict=True)
        return request.model_copy(
            update={
                "prompt": prompt,
                "history": tuple(
                    message.model_copy(update={"content": content}) for message, content in messages
                ),
            }
        )

    def _call(self, claimed: Claimed, request: TurnRequest, budget_tokens: int | None) -> SideCall:
        record = claimed.record
        return SideCall(
            turn=record.turn,
            tenant=record.tenant,
            conversation=record.conversation,
            sealed_key=record.sealed_key or "",
            expires_ms=record.key_expires_ms,
            body=request_body(
                request,
                max_tokens=self._parts.side.side_max_tokens,
                budget_tokens=budget_tokens,
            ),
        )

    async def _listen(self, call: SideCall, output: TurnOutput) -> TurnEnded:
        """One call, whose answer is published and logged as it arrives."""
        self._answer = AnswerStream()
        if self._formed is not None:
            self._formed.begin()
        async with self._parts.gateway.complete(call) as upstream:
            if upstream.status == HTTPStatus.BAD_REQUEST and EXTRAS & call.body.keys():
                # Some models refuse them. If something else is wrong, that is refused again.
                plain = call.model_copy(update={"body": without_extras(call.body)})
                return await self._listen(plain, output)
            if upstream.status >= 400:
                raw = b"".join([chunk async for chunk in upstream.chunks])
                error = refusal(upstream.status, raw, retry_after_s=upstream.retry_after_s)
                return TurnEnded(state=TurnState.FAILED, error=error)
            async for chunk in upstream.chunks:
                for event in self._answer.feed(chunk):
                    if self._formed is None or self._formed.lets_pass(event):
                        self._say(event, output)
                if (cut := self._bounds.ended) is not None:
                    used = self._answer.usage
                    return TurnEnded(state=TurnState.DONE, usage=used, end_reason=cut)
                if output.is_full:
                    await output.flush()
                if self._answer.is_over:
                    await _read_out(upstream.chunks)
        self._say_held(output)
        return self._answer.ended()

    def _say(self, event: Event, output: TurnOutput) -> None:
        """Publish and log an event, and no text from a stop sequence on."""
        if not isinstance(event, TextDelta):
            output.say(encode_event(event))
        elif shown := self._bounds.add(event.text):
            output.say(encode_event(TextDelta(text=shown)))

    def _say_held(self, output: TurnOutput) -> None:
        if held := self._bounds.release():
            output.say(encode_event(TextDelta(text=held)))

    async def _finish(self, record: TurnRecord, end: TurnEnded, output: TurnOutput) -> None:
        """Close the turn, then publish its end. Keeps trying while Redis is unavailable."""
        output.hurry()
        meter = await self._parts.gateway.close_turn(record.conversation, record.turn)
        if meter.usage != Usage():
            end = end.model_copy(update={"usage": meter.usage})
        await output.close(end, meter=meter, idle_timeout_s=0.0)


async def _read_out(chunks: AsyncIterator[bytes]) -> None:
    """Read the end of a body after its last event, so that its connection can be reused."""
    with contextlib.suppress(TimeoutError, GatewayUnavailable):
        async with asyncio.timeout(_BODY_END_S):
            async for _ in chunks:
                pass
