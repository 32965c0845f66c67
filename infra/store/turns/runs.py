"""Runs: consecutive events of a turn that are kept as one entry of its log.

An entry's id is `<number of its last event>-0`. A run of several events is its field `r`: the
events, joined by line breaks. A single event is its field `e`. Sealed events are sealed one by one,
so a run of them is joined in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from infra.wire.events import is_end

RUN_MAX_BYTES = 64 * 1024
"""A longer run is cut, because a reader reads an entry in one piece. An event may be longer."""
_BREAK = b"\n"


class EventRun(NamedTuple):
    """Events `first` to `last`."""

    first: int
    last: int
    events: bytes


def runs_of(events: Iterable[tuple[int, bytes]]) -> list[EventRun]:
    """The events of one turn, in as few runs as they need.

    The end is a run of its own, which scripts look for; and so is an event with a line break, which
    none of ours has.
    """
    found: list[EventRun] = []
    run: list[bytes] = []
    first = size = 0
    for n, payload in events:
        is_alone = _BREAK in payload or is_end(payload)
        size += len(payload) + 1
        if run and (is_alone or size > RUN_MAX_BYTES or n != first + len(run)):
            found.append(_joined(first, run))
            run = []
        if not run:
            first, size = n, len(payload)
        run.append(payload)
        if is_alone:
            found.append(_joined(first, run))
            run = []
    if run:
        found.append(_joined(first, run))
    return found


def events_in(id: bytes, entry: Mapping[bytes, bytes]) -> list[tuple[int, bytes]]:
    """The events of an entry, with their numbers."""
    last = int(id.partition(b"-")[0])
    single = entry.get(b"e")
    if single is not None:
        return [(last, single)]
    events = entry[b"r"].split(_BREAK)
    return list(enumerate(events, last - len(events) + 1))


def _joined(first: int, run: list[bytes]) -> EventRun:
    return EventRun(first, first + len(run) - 1, _BREAK.join(run))
