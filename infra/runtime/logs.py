"""Logs: events with fields, one line each, never a key.

`log.info("turn claimed", extra=fields(turn=..., fence=...))` gives `turn claimed turn=… fence=…` or
one JSON object. A filter masks anything that looks like an Anthropic key in any logger's output, as
the last net: no code should ever pass one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

_KEY = re.compile(r"sk-ant-[A-Za-z0-9_\-]{4,}|(?i:bearer)\s+[A-Za-z0-9._\-]{8,}")
_FIELDS = "agc_fields"


def fields(**values: object) -> dict[str, Any]:
    """Fields of a log event, for `extra=`."""
    return {_FIELDS: {k: v for k, v in values.items() if v is not None}}


class RatedLog:
    """A log about one who may have us write as many lines as they like: an agent, a client.

    A window's first lines are written. What comes beyond is counted, and told with the first line
    of the next window, so that nobody rotates the lines of others away.
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
        """`extra` says whom it is about (see `fields`)."""
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
    """The text with everything that looks like a key masked."""
    return _KEY.sub("[key]", text)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        own: dict[str, Any] = getattr(record, _FIELDS, {})
        tail = "".join(f" {k}={v}" for k, v in own.items())
        stamp = self.formatTime(record, "%H:%M:%S")
        line = f"{stamp} {record.levelname:<7} {record.name}: {record.getMessage()}{tail}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        own: dict[str, Any] = getattr(record, _FIELDS, {})
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **own,
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return redact(json.dumps(entry, default=str))


def configure_logs(level: str, form: str, *, stream: TextIO | None = None) -> None:
    """Send every logger's output through our formatter to stderr.

    Called once, by a program's main.
    """
    output = logging.StreamHandler(stream or sys.stderr)
    output.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[output], force=True)
    for noisy in ("arq", "httpx", "httpcore", "docker", "urllib3", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
