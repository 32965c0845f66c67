"""Meters a turn's token usage from the model's answers as they pass through.

Only events with figures are decoded (two per message), so a delta costs a split and a comparison.
If an answer breaks off before its last figures, its reported input counts, and its output is
estimated from the text that passed; otherwise, disconnecting in time would cost nothing. If a
client leaves before any figure, the call is estimated from its request, because it was sent and is
paid for. Everything else is what the upstream reported.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from infra.metrics.gateway import MODEL_ANSWER_SECONDS, count_answer, count_unanswered
from infra.runtime.logs import fields
from infra.wire.events import Usage
from infra.wire.gateway import Meters, ModelUsage, TurnMeter, UpstreamError
from infra.wire.ids import TurnId
from infra.wire.model.upstream import STATUS_OF_KIND, usage_figures

log = logging.getLogger(__name__)

CLOSED_MAX = 4096
"""Ended turns whose figures are kept, for workers that ask late or again."""

_LINE_MAX_BYTES = 1024 * 1024
_BODY_MAX_BYTES = 16 * 1024 * 1024
_WANTED = {b"message_start", b"message_delta", b"error"}
_DELTA = b"content_block_delta"
_SIGNATURE = b'"signature_delta"'
_DELTA_FRAME_BYTES = 88
"""The size of a delta's data line without its text."""
_TOKEN_BYTES = 4
_FIGURES = tuple(Usage.model_fields)

Estimate = Callable[[], Usage]
"""Estimates a call's cost from its request. Used only if there are no figures."""


class CallMeter:
    """Reads one answer of the upstream. Never raises, because metering must not break a stream."""

    def __init__(
        self,
        *,
        is_stream: bool,
        status: int,
        retry_after_s: float | None,
        estimate: Estimate = Usage,
    ) -> None:
        self.is_stream = is_stream
        self.is_final = False
        """Whether the upstream has reported the answer's total cost."""
        self.status = status
        """The HTTP status of the answer."""
        self._retry_after_s = retry_after_s
        self._estimate = estimate
        self._body = bytearray()
        self._body_bytes = 0
        self._rest = b""
        self._event = b""
        self._is_skipping = False
        self._deltas = 0
        self._delta_bytes = 0
        self._figures: dict[str, int] = {}
        self.error: UpstreamError | None = None
        if status >= 400:
            self.error = UpstreamError(status=status, retry_after_s=retry_after_s)

    @property
    def usage(self) -> Usage:
        """The usage known so far."""
        told = Usage(**self._figures)
        if self.is_final:
            return told
        output = max(told.output_tokens, self._estimated_output())
        return told.model_copy(update={"output_tokens": output})

    @property
    def spent_tokens(self) -> int:
        """The part of `usage` that counts against a budget; cheap enough to read for every
        chunk."""
        told = self._figures.get
        output = told("output_tokens", 0)
        if not self.is_final:
            output = max(output, self._estimated_output())
        return told("input_tokens", 0) + told("cache_creation_input_tokens", 0) + output

    def feed(self, chunk: bytes) -> None:
        """Bytes of the body, in pieces of any size."""
        if self.is_stream:
            self._feed_lines(chunk)
            return
        self._body_bytes += len(chunk)
        if len(self._body) + len(chunk) <= _BODY_MAX_BYTES:
            self._body += chunk

    def end(self) -> None:
        """The body is complete. A body that is not a stream can be read only now."""
        if self._body:
            self._read(bytes(self._body))
            self._body.clear()

    def leave(self) -> None:
        """The client has left or was cut off: if there is no figure yet, there will be none."""
        if self._figures or self.error:
            return
        self._figures = self._estimate().model_dump(include=set(_FIGURES))

    def broke(self) -> None:
        """The stream broke off."""
        self.error = UpstreamError(status=502, kind="stream_broken")

    def _estimated_output(self) -> int:
        """A delta counts at least one token; in longer ones, four bytes of text count as one."""
        if not self.is_stream:
            return self._body_bytes // _TOKEN_BYTES if self.status < 400 else 0
        text_bytes = self._delta_bytes - self._deltas * _DELTA_FRAME_BYTES
        return max(self._deltas, text_bytes // _TOKEN_BYTES)

    def _feed_lines(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if self._is_skipping:
                self._is_skipping = False
                self._skim(line)
            elif line.startswith(b"event:"):
                self._event = line[6:].strip()
            elif line.startswith(b"data:"):
                if self._event == _DELTA:
                    self._skim(line, is_begun=True)
                elif self._event in _WANTED:
                    self._read(line[5:])
        # An irrelevant line may be long and come in pieces; joining them would take quadratic time.
        if self._is_skipping:
            self._skim(self._rest)
        elif self._rest.startswith(b"data:") and self._event not in _WANTED:
            self._is_skipping = True
            self._skim(self._rest, is_begun=True)
        elif len(self._rest) > _LINE_MAX_BYTES:
            self._is_skipping = True
        if self._is_skipping:
            self._rest = b""

    def _skim(self, piece: bytes, *, is_begun: bool = False) -> None:
        """Note the size of a piece of a delta; the signature of a thought is not output."""
        if self._event != _DELTA or (is_begun and _SIGNATURE in piece[:_DELTA_FRAME_BYTES]):
            return
        self._deltas += is_begun
        self._delta_bytes += len(piece)

    def _read(self, raw: bytes) -> None:
        try:
            told = json.loads(raw)
        except (ValueError, RecursionError):
            log.debug("upstream sent what is not JSON", extra=fields(bytes=len(raw)))
            return
        if not isinstance(told, dict):
            return
        match told.get("type"):
            case "message_start":
                self._count(told.get("message"))
            case "message_delta" | "message":
                self._count(told)
                self.is_final = True
            case "error":
                self._fail(told.get("error"))

    def _count(self, holder: Any) -> None:
        """Later figures replace earlier ones, because the API counts up."""
        usage = holder.get("usage") if isinstance(holder, dict) else None
        self._figures |= usage_figures(usage)

    def _fail(self, error: Any) -> None:
        kind = error.get("type") if isinstance(error, dict) else None
        kind = kind if isinstance(kind, str) else None
        status = self.status if self.status >= 400 else STATUS_OF_KIND.get(kind or "", 500)
        self.error = UpstreamError(status=status, kind=kind, retry_after_s=self._retry_after_s)


class TurnCounter:
    """Adds up the calls of one turn by model, including running ones."""

    def __init__(self) -> None:
        self.is_over_budget = False
        self._past: defaultdict[str, ModelUsage] = defaultdict(ModelUsage)
        self._past_tokens = 0
        self._running: dict[CallMeter, str] = {}
        self._unanswered: dict[object, tuple[str, Estimate]] = {}
        self._last_error: UpstreamError | None = None

    @property
    def spent_tokens(self) -> int:
        """The tokens that count against a budget, so far."""
        return self._past_tokens + sum(meter.spent_tokens for meter in self._running)

    @contextmanager
    def call(self, meter: CallMeter, model: str) -> Iterator[None]:
        """One answer, from its status to its end, however it ends."""
        self._running[meter] = model
        began_s = time.perf_counter()
        try:
            yield
        except BaseException:
            meter.leave()
            raise
        finally:
            meter.end()
            del self._running[meter]
            self._past[model] = _with_call(self._past[model], meter.usage)
            self._past_tokens += meter.spent_tokens
            self._last_error = meter.error or self._last_error
            MODEL_ANSWER_SECONDS.observe(time.perf_counter() - began_s)
            count_answer(status=meter.status, usage=meter.usage, error=meter.error)

    @contextmanager
    def unanswered(self, model: str, estimate: Estimate) -> Iterator[None]:
        """A call between sending it and its status. If cancelled before that, its estimate
        counts."""
        call = object()
        self._unanswered[call] = (model, estimate)
        try:
            yield
        except asyncio.CancelledError:
            self._give_up(call)
            raise
        finally:
            self._unanswered.pop(call, None)

    def settle(self) -> None:
        """The turn is over: running calls are cut off, and their figures are read at once."""
        for call in list(self._unanswered):
            self._give_up(call)
        for meter in self._running:
            meter.leave()

    def _give_up(self, call: object) -> None:
        """Count the call's estimate, once."""
        if found := self._unanswered.pop(call, None):
            model, estimate = found
            used = estimate()
            self._past[model] = _with_call(self._past[model], used)
            self._past_tokens += used.spent_tokens
            count_unanswered(used, is_unreachable=False)

    def fail(self, error: UpstreamError, model: str) -> None:
        """Count a call that got no answer at all."""
        self._past[model] = _with_call(self._past[model], Usage())
        self._last_error = error
        count_unanswered(Usage(), is_unreachable=True)

    def read(self, instance: str = "") -> TurnMeter:
        """The current figures."""
        models = dict(self._past)
        for meter, model in self._running.items():
            models[model] = _with_call(models.get(model, ModelUsage()), meter.usage)
        return TurnMeter(
            calls=sum(used.calls for used in models.values()),
            usage=sum((used.usage for used in models.values()), start=Usage()),
            last_error=self._last_error,
            instance=instance,
            models=models,
            is_over_budget=self.is_over_budget,
        )


class Ledger:
    """The counters of this gateway's turns: the running ones and the most recent ended ones.

    They are independent of sessions, keys and workers: a worker that closes a turn gets all
    figures.
    """

    def __init__(self, instance: str, *, closed_max: int = CLOSED_MAX) -> None:
        self._instance = instance
        self._closed_max = closed_max
        self._open: dict[TurnId, TurnCounter] = {}
        self._closed: OrderedDict[TurnId, TurnCounter] = OrderedDict()

    def open(self, turn: TurnId) -> TurnCounter:
        """The turn's counter; an existing one is continued."""
        counter = self._open.get(turn) or self._closed.pop(turn, None) or TurnCounter()
        self._open[turn] = counter
        return counter

    def settle(self, turn: TurnId) -> None:
        """The turn is over, and its running calls will report nothing more."""
        if counter := self._open.get(turn):
            counter.settle()

    def close(self, turn: TurnId) -> None:
        """The turn has no more calls. Its figures are kept for a while."""
        self.settle(turn)
        if counter := self._open.pop(turn, None):
            self._closed[turn] = counter
            if len(self._closed) > self._closed_max:
                self._closed.popitem(last=False)

    def read(self, turn: TurnId) -> TurnMeter:
        """The turn's figures; empty for a turn that is not known (or no longer)."""
        counter = self._open.get(turn) or self._closed.get(turn) or TurnCounter()
        return counter.read(self._instance)

    def read_open(self) -> Meters:
        """The figures of the running turns."""
        turns = {turn: counter.read(self._instance) for turn, counter in self._open.items()}
        return Meters(instance=self._instance, turns=turns)


def _with_call(used: ModelUsage, usage: Usage) -> ModelUsage:
    return ModelUsage(calls=used.calls + 1, usage=used.usage + usage)
