"""How a CLI is told how much to think: the control requests, which the SDK does not document.

A model has either levels of effort or a budget of thinking tokens; some cannot do without thinking.
The CLI knows which (`list_models`). `tests/contract/agent/test_bounds.py` shows the requests on the
wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra.wire.options import Effort

Json = dict[str, Any]

LIST_MODELS: Json = {"subtype": "list_models"}

_LEVELS = (Effort.LOW, Effort.MEDIUM, Effort.HIGH, Effort.XHIGH, Effort.MAX)
_LOWERED = {Effort.NONE: Effort.LOW, Effort.MINIMAL: Effort.LOW}
"""Models have no levels for these."""

_BUDGETS = {
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


@dataclass(frozen=True)
class ThinkingAbilities:
    """What a model can be told."""

    levels: tuple[str, ...] = ()
    """Its levels of effort; none: it has a budget instead."""
    can_stop_thinking: bool = False


def abilities_of(model: str, told: Any) -> ThinkingAbilities:
    """What the answer to `LIST_MODELS` says about the model. An unknown one has levels: that is
    what the CLI assumes too."""
    listed = told.get("models") if isinstance(told, dict) else None
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and model in (one.get("resolvedModel"), one.get("value")):
            levels = one.get("supportedEffortLevels") if one.get("supportsEffort") else ()
            return ThinkingAbilities(
                levels=tuple(levels or ()), can_stop_thinking=bool(one.get("supportsThinkingOff"))
            )
    return ThinkingAbilities(levels=tuple(_LEVELS))


def requests_for(
    effort: Effort | None, abilities: ThinkingAbilities, *, usual_tokens: int | None
) -> list[Json]:
    """The control requests that set the effort. None: back to the model's default, or to
    `usual_tokens` of thinking."""
    if not abilities.levels:
        return [_tokens(usual_tokens if effort is None else _BUDGETS[effort])]
    requests = [_level(None if effort is None else _nearest(effort, abilities.levels))]
    if abilities.can_stop_thinking:
        requests.append(_tokens(0 if effort is Effort.NONE else usual_tokens))
    return requests


def _level(level: str | None) -> Json:
    return {"subtype": "apply_flag_settings", "settings": {"effortLevel": level}}


def _tokens(tokens: int | None) -> Json:
    return {"subtype": "set_max_thinking_tokens", "max_thinking_tokens": tokens}


def _nearest(effort: Effort, levels: tuple[str, ...]) -> str:
    """That level, or the highest below it that the model has, or its lowest."""
    wanted = _LOWERED.get(effort, effort)
    known = [level for level in _LEVELS if level in levels]
    below = [level for level in known if _LEVELS.index(level) <= _LEVELS.index(wanted)]
    return (below or known or [wanted])[-1 if below else 0]
