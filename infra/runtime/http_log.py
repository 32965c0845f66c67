"""The log of our HTTP servers on Unix sockets: their own faults, and not what a caller spoils.

A caller that speaks no HTTP is told so. A traceback for each, with the bytes it sent in it, would
fill the host's disk at its pleasure.
"""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError


def _is_own_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


http_log = logging.getLogger(__name__)
http_log.addFilter(_is_own_fault)
