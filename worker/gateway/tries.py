"""Limits how often one model call is retried when the upstream fails. Pure.

The agent's CLI is patient with a gateway that is being restarted, for a few seconds. After a few
tries, an upstream that refuses or cannot be reached has had its chance, and the waiting user gets
an error.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

TRIES_MAX = 3
_CALLS_MAX = 64
"""The number of calls that are remembered; an agent makes few at the same time."""


class FailedTries:
    """The failed calls of one turn, identified by their body: the CLI repeats it unchanged."""

    def __init__(self) -> None:
        self._failed: OrderedDict[bytes, int] = OrderedDict()

    def add(self, body: bytes) -> bool:
        """Record that the upstream failed this call. Returns whether another try is pointless."""
        asked = hashlib.blake2b(body, digest_size=16).digest()
        tries = self._failed.pop(asked, 0) + 1
        self._failed[asked] = tries
        if len(self._failed) > _CALLS_MAX:
            self._failed.popitem(last=False)
        return tries >= TRIES_MAX
