"""How often one model call is worth trying when it is the upstream that fails. Pure.

The agent's CLI has patience for a gateway that is being restarted: some seconds. An upstream that
refuses or cannot be reached has had its chance after a few tries, and a waiting user is told.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

TRIES_MAX = 3
_CALLS_MAX = 64
"""Calls that are remembered; an agent has few under way at once."""


class FailedTries:
    """One turn's calls that failed, by what they asked: the CLI repeats a body as it was."""

    def __init__(self) -> None:
        self._failed: OrderedDict[bytes, int] = OrderedDict()

    def add(self, body: bytes) -> bool:
        """Note that the upstream failed this call; whether another try is pointless."""
        asked = hashlib.blake2b(body, digest_size=16).digest()
        tries = self._failed.pop(asked, 0) + 1
        self._failed[asked] = tries
        if len(self._failed) > _CALLS_MAX:
            self._failed.popitem(last=False)
        return tries >= TRIES_MAX
