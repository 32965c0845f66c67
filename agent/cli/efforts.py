"""How a CLI is told how much to think: the control requests, which the SDK does not document.

A model has either levels of effort or a budget of thinking tokens; some cannot do without thinking.
The CLI knows which (`list_models`). `tests/contract/agent/test_bounds.py` shows the requests on the
wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra.wire.model.effort import LEVELS, THINKING_TOKENS, nearest_level
from infra.wire.options import Effort

Json = dict[str, Any]

LIST_MODELS: Json = {"subtype": "list_models"}


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
    return ThinkingAbilities(levels=tuple(LEVELS))


def requests_for(
    effort: Effort | None, abilities: ThinkingAbilities, *, usual_tokens: int | None
) -> list[Json]:
    """The control requests that set the effort. None: back to the model's default, or to
    `usual_tokens` of thinking."""
    if not abilities.levels:
        return [_tokens(usual_tokens if effort is None else THINKING_TOKENS[effort])]
    requests = [_level(None if effort is None else nearest_level(effort, abilities.levels))]
    if abilities.can_stop_thinking:
        requests.append(_tokens(0 if effort is Effort.NONE else usual_tokens))
    return requests


def _level(level: str | None) -> Json:
    return {"subtype": "apply_flag_settings", "settings": {"effortLevel": level}}


def _tokens(tokens: int | None) -> Json:
    return {"subtype": "set_max_thinking_tokens", "max_thinking_tokens": tokens}
