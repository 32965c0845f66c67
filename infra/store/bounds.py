"""How much is kept and for how long, where several subjects have to agree."""

from __future__ import annotations

EVENTS_MAX = 200_000
"""A log keeps about this many events; a reader further behind sees a gap in the numbers.

An event of a few words takes about 100 bytes of Redis, so the longest log takes 20 MB, until an
hour after the turn's end. Reading a longer one from the beginning (a repeat, or a client that
resumes) is refused with `turn_log_trimmed`; a reader that follows it live misses nothing.
"""

ENDED_TTL_S = 3600.0
"""Seconds that an ended turn can be fetched, unless the settings say otherwise."""

LISTED_TURNS_MAX = 200
"""How many of a conversation's newest turns are shown."""
