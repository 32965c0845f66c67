"""What the efforts of OpenAI's API are for models that count thinking in tokens, or in levels of
their own. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infra.wire.options import Effort

LEVELS = (Effort.LOW, Effort.MEDIUM, Effort.HIGH, Effort.XHIGH, Effort.MAX)
_LOWERED = {Effort.NONE: Effort.LOW, Effort.MINIMAL: Effort.LOW}
"""Models have no levels for these."""

THINKING_TOKENS: Mapping[Effort, int] = {
    Effort.NONE: 0,
    Effort.MINIMAL: 1024,
    Effort.LOW: 4096,
    Effort.MEDIUM: 10_000,
    Effort.HIGH: 20_000,
    Effort.XHIGH: 31_999,
    Effort.MAX: 31_999,
}
"""Thinking tokens of models without levels. 1024 is the least that the Messages API takes, 31,999
the most that leaves the CLI room for an answer."""


def nearest_level(effort: Effort, levels: Sequence[str]) -> str:
    """That level, or the highest below it that the model has, or its lowest."""
    wanted = _LOWERED.get(effort, effort)
    known = [level for level in LEVELS if level in levels]
    below = [level for level in known if LEVELS.index(level) <= LEVELS.index(wanted)]
    return (below or known or [wanted])[-1 if below else 0]
