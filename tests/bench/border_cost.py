"""What it costs to look at an event once, at the worker's border, before others trust its form."""

from __future__ import annotations

import timeit
from collections.abc import Mapping

from infra.wire.events import TextDelta, ToolCall, check_event, encode_event
from tests.bench.section import Section

_ROUNDS, _CALLS = 25, 4_000

EVENTS: Mapping[str, bytes] = {
    "a delta of 15 letters": encode_event(TextDelta(text=" the quick fox ")),
    "a delta of 10 signs beyond ASCII": encode_event(TextDelta(text="日本語の文字列です。")),
    "a joined delta of 4,000 letters": encode_event(TextDelta(text=" the quick fox." * 267)),
    "a tool call": encode_event(ToolCall(id="toolu_1", name="Bash", summary="ls -la /workspace")),
}


async def measure(is_quick: bool) -> Section:
    """Microseconds an event, the best of some rounds: others use this machine too."""
    out = Section("What the worker's look at an event costs", ["the check of", "us"])
    out.rows = [[what, f"{_best_s(payload) * 1e6:.2f}"] for what, payload in EVENTS.items()]
    return out


def _best_s(payload: bytes) -> float:
    rounds = timeit.repeat(lambda: check_event(payload), number=_CALLS, repeat=_ROUNDS)
    return min(rounds) / _CALLS
