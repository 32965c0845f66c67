"""What a turn uses on the wire: tokens read from the model's answers as they pass by.

Only the events that carry figures are decoded (two in a message), so a delta costs a split and a
comparison. What an upstream did not say is not guessed. A broken stream counts as far as it got:
its input at least.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from infra.runtime.logs import fields
from infra.wire.events import Usage
from infra.wire.gateway import TurnMeter, UpstreamError
from infra.wire.upstream import STATUS_OF_KIND

log = logging.getLogger(__name__)

_LINE_MAX_BYTES = 1024 * 1024
_BODY_MAX_BYTES = 16 * 1024 * 1024
_WANTED = {b"message_start", b"message_delta", b"error"}
_FIGURES = tuple(Usage.model_fields)


class CallMeter:
    """Reads one answer of the upstream. It never raises: metering must not break a stream."""

    def __init__(self, *, is_stream: bool, status: int, retry_after_s: float | None) -> None:
        self._is_stream = is_stream
        self._status = status
        self._retry_after_s = retry_after_s
        self._body = bytearray()
        self._rest = b""
        self._event = b""
        self._is_skipping = False
        self._figures: dict[str, int] = {}
        self.error: UpstreamError | None = None
        if status >= 400:
            self.error = UpstreamError(status=status, retry_after_s=retry_after_s)

    @property
    def usage(self) -> Usage:
        """What is known so far."""
        return Usage(**self._figures)

    def feed(self, chunk: bytes) -> None:
        """Bytes of the body, cut anywhere."""
        if self._is_stream:
            self._feed_lines(chunk)
        elif len(self._body) + len(chunk) <= _BODY_MAX_BYTES:
            self._body += chunk

    def end(self) -> None:
        """The body is complete: only now can one that is not a stream be read."""
        if self._body:
            self._read(bytes(self._body))
            self._body.clear()

    def broke(self) -> None:
        """The stream ended before its end."""
        self.error = UpstreamError(status=502, kind="stream_broken")

    def _feed_lines(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if self._is_skipping:
                self._is_skipping = False
            elif line.startswith(b"event:"):
                self._event = line[6:].strip()
            elif self._event in _WANTED and line.startswith(b"data:"):
                self._read(line[5:])
        # An unwanted line may be long and come in pieces; gathering them would be quadratic.
        is_unwanted = self._rest.startswith(b"data:") and self._event not in _WANTED
        if is_unwanted or len(self._rest) > _LINE_MAX_BYTES:
            self._is_skipping = True
        if self._is_skipping:
            self._rest = b""

    def _read(self, raw: bytes) -> None:
        try:
            told = json.loads(raw)
        except ValueError:
            log.debug("upstream sent what is not JSON", extra=fields(bytes=len(raw)))
            return
        if not isinstance(told, dict):
            return
        match told.get("type"):
            case "message_start":
                self._count(told.get("message"))
            case "message_delta" | "message":
                self._count(told)
            case "error":
                self._fail(told.get("error"))

    def _count(self, holder: Any) -> None:
        """Later figures replace earlier ones: the API counts up."""
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            self._figures |= {
                name: usage[name] for name in _FIGURES if isinstance(usage.get(name), int)
            }

    def _fail(self, error: Any) -> None:
        kind = error.get("type") if isinstance(error, dict) else None
        kind = kind if isinstance(kind, str) else None
        status = self._status if self._status >= 400 else STATUS_OF_KIND.get(kind or "", 500)
        self.error = UpstreamError(status=status, kind=kind, retry_after_s=self._retry_after_s)


class TurnCounter:
    """Adds up the calls of one turn, those under way included."""

    def __init__(self) -> None:
        self._calls = 0
        self._past: dict[str, int] = dict.fromkeys(_FIGURES, 0)
        self._running: set[CallMeter] = set()
        self._last_error: UpstreamError | None = None

    @contextmanager
    def call(self, meter: CallMeter) -> Iterator[None]:
        """One answer, from its status to its end, however it ends."""
        self._calls += 1
        self._running.add(meter)
        try:
            yield
        finally:
            self._running.discard(meter)
            _add(self._past, meter.usage.model_dump())
            self._last_error = meter.error or self._last_error

    def fail(self, error: UpstreamError) -> None:
        """A call that got no answer at all."""
        self._calls += 1
        self._last_error = error

    def read(self) -> TurnMeter:
        """The figures as they are now."""
        total = dict(self._past)
        for meter in self._running:
            _add(total, meter.usage.model_dump())
        return TurnMeter(calls=self._calls, usage=Usage(**total), last_error=self._last_error)


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, figure in more.items():
        total[name] += figure
