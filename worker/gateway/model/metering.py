"""What a turn uses on the wire: tokens read from the model's answers as they pass by.

Only the events that carry figures are decoded (two in a message), so a delta costs a split and a
comparison. An answer that breaks off before its last figures counts what it had said of its input,
and for its output an estimate by the text that passed: else to hang up in time would cost
nothing. One that was left before any figure counts an estimate by its request, as it was sent and
is paid for. Everything else is as the upstream told it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from infra.runtime.logs import fields
from infra.wire.events import Usage
from infra.wire.gateway import Meters, ModelUsage, TurnMeter, UpstreamError
from infra.wire.ids import TurnId
from infra.wire.upstream import STATUS_OF_KIND, usage_figures

log = logging.getLogger(__name__)

CLOSED_MAX = 4096
"""Turns whose figures are kept after their end, for workers that ask late or again."""

_LINE_MAX_BYTES = 1024 * 1024
_BODY_MAX_BYTES = 16 * 1024 * 1024
_WANTED = {b"message_start", b"message_delta", b"error"}
_DELTA = b"content_block_delta"
_SIGNATURE = b'"signature_delta"'
_DELTA_FRAME_BYTES = 88
"""What a delta's data line has around its text."""
_TOKEN_BYTES = 4
_FIGURES = tuple(Usage.model_fields)

Estimate = Callable[[], Usage]
"""What a call costs as far as its request says. Asked for only when nobody tells."""


class CallMeter:
    """Reads one answer of the upstream. It never raises: metering must not break a stream."""

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
        """The upstream has told what the answer cost in all."""
        self._status = status
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
        """What is known so far."""
        told = Usage(**self._figures)
        if self.is_final:
            return told
        output = max(told.output_tokens, self._estimated_output())
        return told.model_copy(update={"output_tokens": output})

    @property
    def spent_tokens(self) -> int:
        """The part of `usage` that counts against a budget; cheap enough for every chunk."""
        told = self._figures.get
        output = told("output_tokens", 0)
        if not self.is_final:
            output = max(output, self._estimated_output())
        return told("input_tokens", 0) + told("cache_creation_input_tokens", 0) + output

    def feed(self, chunk: bytes) -> None:
        """Bytes of the body, cut anywhere."""
        if self.is_stream:
            self._feed_lines(chunk)
            return
        self._body_bytes += len(chunk)
        if len(self._body) + len(chunk) <= _BODY_MAX_BYTES:
            self._body += chunk

    def end(self) -> None:
        """No more comes: only now can a body that is not a stream be read, if it is whole."""
        if self._body:
            self._read(bytes(self._body))
            self._body.clear()

    def leave(self) -> None:
        """The caller is gone, or is cut off: without a figure up to now, there will be none."""
        if self._figures or self.error:
            return
        self._figures = self._estimate().model_dump(include=set(_FIGURES))

    def broke(self) -> None:
        """The stream ended before its end."""
        self.error = UpstreamError(status=502, kind="stream_broken")

    def _estimated_output(self) -> int:
        """A delta is a token at least; of longer ones, four bytes of text are one."""
        if not self.is_stream:
            return self._body_bytes // _TOKEN_BYTES if self._status < 400 else 0
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
        # An unwanted line may be long and come in pieces; gathering them would be quadratic.
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
        """Note the size of a piece of a delta; a thought's signature is no output."""
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
        """Later figures replace earlier ones: the API counts up."""
        usage = holder.get("usage") if isinstance(holder, dict) else None
        self._figures |= usage_figures(usage)

    def _fail(self, error: Any) -> None:
        kind = error.get("type") if isinstance(error, dict) else None
        kind = kind if isinstance(kind, str) else None
        status = self._status if self._status >= 400 else STATUS_OF_KIND.get(kind or "", 500)
        self.error = UpstreamError(status=status, kind=kind, retry_after_s=self._retry_after_s)


class TurnCounter:
    """Adds up the calls of one turn by model, those under way included."""

    def __init__(self) -> None:
        self.is_over_budget = False
        self._past: defaultdict[str, ModelUsage] = defaultdict(ModelUsage)
        self._past_tokens = 0
        self._running: dict[CallMeter, str] = {}
        self._unanswered: dict[object, tuple[str, Estimate]] = {}
        self._last_error: UpstreamError | None = None

    @property
    def spent_tokens(self) -> int:
        """What counts against a budget, up to now."""
        return self._past_tokens + sum(meter.spent_tokens for meter in self._running)

    @contextmanager
    def call(self, meter: CallMeter, model: str) -> Iterator[None]:
        """One answer, from its status to its end, however it ends."""
        self._running[meter] = model
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

    @contextmanager
    def unanswered(self, model: str, estimate: Estimate) -> Iterator[None]:
        """A call from its sending to its status. Cancelled before that, its estimate counts."""
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
        """The turn is over: what is under way is cut off, and its figures are read at once."""
        for call in list(self._unanswered):
            self._give_up(call)
        for meter in self._running:
            meter.leave()

    def _give_up(self, call: object) -> None:
        """Book the call's estimate, once."""
        if found := self._unanswered.pop(call, None):
            model, estimate = found
            used = estimate()
            self._past[model] = _with_call(self._past[model], used)
            self._past_tokens += used.spent_tokens

    def fail(self, error: UpstreamError, model: str) -> None:
        """A call that got no answer at all."""
        self._past[model] = _with_call(self._past[model], Usage())
        self._last_error = error

    def read(self, instance: str = "") -> TurnMeter:
        """The figures as they are now."""
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
    """The counters of all turns of this gateway: of those under way, and of the last ones before.

    They do not go with their sessions, keys or workers: a worker that closes a turn reads all.
    """

    def __init__(self, instance: str, *, closed_max: int = CLOSED_MAX) -> None:
        self._instance = instance
        self._closed_max = closed_max
        self._open: dict[TurnId, TurnCounter] = {}
        self._closed: OrderedDict[TurnId, TurnCounter] = OrderedDict()

    def open(self, turn: TurnId) -> TurnCounter:
        """The turn's counter; one that it had before goes on."""
        counter = self._open.get(turn) or self._closed.pop(turn, None) or TurnCounter()
        self._open[turn] = counter
        return counter

    def settle(self, turn: TurnId) -> None:
        """It is over, and what it has under way will be told no more."""
        if counter := self._open.get(turn):
            counter.settle()

    def close(self, turn: TurnId) -> None:
        """Nothing more of it comes. The figures stay for a while."""
        self.settle(turn)
        if counter := self._open.pop(turn, None):
            self._closed[turn] = counter
            if len(self._closed) > self._closed_max:
                self._closed.popitem(last=False)

    def read(self, turn: TurnId) -> TurnMeter:
        """The turn's figures; empty ones for a turn that is not known (any more)."""
        counter = self._open.get(turn) or self._closed.get(turn) or TurnCounter()
        return counter.read(self._instance)

    def read_open(self) -> Meters:
        """The figures of the turns under way."""
        turns = {turn: counter.read(self._instance) for turn, counter in self._open.items()}
        return Meters(instance=self._instance, turns=turns)


def _with_call(used: ModelUsage, usage: Usage) -> ModelUsage:
    return ModelUsage(calls=used.calls + 1, usage=used.usage + usage)
