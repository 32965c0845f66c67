"""The log of our HTTP servers on Unix sockets: it records our own faults, not those of callers.

A caller that does not speak HTTP gets an error. Logging a traceback with the received bytes for
each such caller would let it fill the host's disk.
"""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError


def _is_own_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


http_log = logging.getLogger(__name__)
http_log.addFilter(_is_own_fault)
