"""Logs: events with fields, one line each, never a key.

`log.info("turn claimed", extra=fields(turn=..., fence=...))` gives `turn claimed turn=… fence=…` or
one JSON object. Foreign text is escaped by `infra.wire.text.foreign` where it is logged; the
formatters escape it once more as a last defence. A filter masks anything that looks like an
Anthropic key in the output of every logger. That is only a safety net: no code should ever log a
key.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TextIO

from infra.wire.text.foreign import escaped, foreign

_KEY = re.compile(r"sk-ant-[A-Za-z0-9_\-]{4,}|(?i:bearer)\s+[A-Za-z0-9._\-]{8,}")
_FIELDS = "agc_fields"
_BOUND: ContextVar[Mapping[str, object]] = ContextVar("bound", default=MappingProxyType({}))
_NEEDS_QUOTES = re.compile(r'[\s"=]')
LINE_MAX_CHARS = 16 * 1024
"""Maximum length of a message, a field or a traceback. No error of ours needs more."""


def fields(**values: object) -> dict[str, Any]:
    """Fields of a log event, for `extra=`."""
    return {_FIELDS: {k: v for k, v in values.items() if v is not None}}


@contextmanager
def bound(**values: object) -> Iterator[None]:
    """In the block, each line has these fields as well, also those of tasks that it starts. So all
    lines about a turn can be found by its id."""
    token = _BOUND.set(MappingProxyType({**_BOUND.get(), **values}))
    try:
        yield
    finally:
        _BOUND.reset(token)


def bind(**values: object) -> None:
    """The same until the task ends that calls it: for a task that serves one request."""
    _BOUND.set(MappingProxyType({**_BOUND.get(), **values}))


class RatedLog:
    """A rate-limited log about someone who could cause any number of lines: an agent, a client.

    The first lines of each time window are written. Further ones are only counted, and the count is
    logged with the first line of the next window, so that nobody can push other log lines out.
    """

    def __init__(
        self,
        log: logging.Logger,
        *,
        extra: dict[str, Any] | None = None,
        lines_max: int = 20,
        window_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`extra` says whom the lines are about (see `fields`)."""
        self._log = log
        self._extra = (extra or {}).get(_FIELDS, {})
        self._lines_max = lines_max
        self._window_s = window_s
        self._monotonic = monotonic
        self._since_s = monotonic()
        self._lines = 0

    def info(self, message: str, *args: object, **values: object) -> None:
        self._write(logging.INFO, message, args, values)

    def warning(self, message: str, *args: object, **values: object) -> None:
        self._write(logging.WARNING, message, args, values)

    def _write(
        self, level: int, message: str, args: tuple[object, ...], values: dict[str, object]
    ) -> None:
        now_s = self._monotonic()
        untold = 0
        if now_s - self._since_s >= self._window_s:
            untold = max(0, self._lines - self._lines_max)
            self._since_s, self._lines = now_s, 0
        self._lines += 1
        if self._lines <= self._lines_max:
            about = fields(**{**self._extra, **values}, untold=untold or None)
            self._log.log(level, message, *args, extra=about, stacklevel=3)


def redact(text: str) -> str:
    """The text with everything masked that looks like a key."""
    return _KEY.sub("[key]", text)


class _TextFormatter(logging.Formatter):
    """One line, whatever the message and its fields contain: foreign text cannot start a new line
    or move the cursor. The lines of a traceback are marked, because an error message may contain
    line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        own = _all_fields(record)
        tail = "".join(f" {k}={_value(v)}" for k, v in own.items())
        stamp = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03d}"
        said = escaped(_cut(record.getMessage()))
        line = f"{stamp} {record.levelname:<7} {record.name}: {said}{tail}"
        if record.exc_info:
            lines = _cut(self.formatException(record.exc_info)).split("\n")
            line += "".join(f"\n| {escaped(told)}" for told in lines)
        return redact(line)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        own = _all_fields(record)
        day, zone = self.formatTime(record, "%Y-%m-%dT%H:%M:%S|%z").split("|")
        entry = {
            "time": f"{day}.{int(record.msecs):03d}{zone}",
            "level": record.levelname,
            "logger": record.name,
            "event": _cut(record.getMessage()),
            **{k: _cut(v) if isinstance(v, str) else v for k, v in own.items()},
        }
        if record.exc_info:
            entry["traceback"] = _cut(self.formatException(record.exc_info))
        return redact(json.dumps(entry, default=lambda value: _cut(str(value))))


def _all_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Those of the line, and those that are bound where it is written."""
    own: dict[str, Any] = getattr(record, _FIELDS, {})
    return {**own, **{k: v for k, v in _BOUND.get().items() if k not in own}}


def _value(value: object) -> str:
    """A field's value, in quotes if it could be read as more than one."""
    text = _cut(str(value))
    return foreign(text, max_chars=len(text)) if _NEEDS_QUOTES.search(text) else escaped(text)


def _cut(text: str) -> str:
    return text if len(text) <= LINE_MAX_CHARS else f"{text[:LINE_MAX_CHARS]}… ({len(text)} in all)"


def configure_logs(level: str, form: str, *, stream: TextIO | None = None) -> None:
    """Send the output of every logger to stderr through our formatter.

    Called once, by a program's main.
    """
    output = logging.StreamHandler(stream or sys.stderr)
    output.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[output], force=True)
    for noisy in ("arq", "httpx", "httpcore", "docker", "urllib3", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
