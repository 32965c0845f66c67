"""What the scripted model was asked: for tests, and for people who want to see the requests."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ENTRIES_MAX = 10_000
"""Older requests are forgotten."""


@dataclass
class Entry:
    """One request.

    `billed` is what a message cost, as far as it was sent. `ended` says how its answer went:
    `done`, `refused`, `cut` (broken off by the script),
    `aborted` (the client hung up first), or None while it is under way.
    """

    n: int
    unix_s: float
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    billed: Mapping[str, int] = field(default_factory=dict)
    ended: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Journal:
    """The requests seen, newest last, and how often each list of messages came."""

    def __init__(self, path: Path | None = None) -> None:
        self.entries: list[Entry] = []
        self.last_body: Mapping[str, Any] = {}
        self._path = path
        self._seen = 0
        self._attempts: Counter[str] = Counter()
        self._changed = asyncio.Event()

    def add(self, entry: Entry) -> None:
        """Note a request; with a log file, also there."""
        self._seen += 1
        entry.n = self._seen
        self.entries.append(entry)
        del self.entries[:-ENTRIES_MAX]
        self._tell()

    def end(self, entry: Entry, how: str) -> None:
        """Note how a request ended. The first word counts."""
        if entry.ended is not None:
            return
        entry.ended = how
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry.as_json()) + "\n")
        self._tell()

    async def wait_for(self, is_wanted: Callable[[Entry], bool], *, timeout_s: float) -> Entry:
        """The first entry that is wanted, now or later. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while True:
                for entry in self.entries:
                    if is_wanted(entry):
                        return entry
                await self._changed.wait()

    def attempt(self, messages: Any) -> int:
        """Which time these messages are asked for, from 1."""
        key = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
        self._attempts[key] += 1
        return self._attempts[key]

    def clear(self) -> None:
        self.entries.clear()
        self._attempts.clear()
        self.last_body = {}

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
