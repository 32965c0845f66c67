"""How much the model of a side request thinks: the client's effort, as the Messages API takes it.
Pure.

Nobody here can ask what a model takes, so it is told by its name. Older models have a budget of
thinking tokens, newer ones levels of effort. A model that refuses is asked again without
(`worker.side.messages_api.without_extras`).
"""

from __future__ import annotations

import re
from typing import Any

from infra.wire.model.effort import THINKING_TOKENS, nearest_level
from infra.wire.options import Effort, TurnOptions

_WITHOUT_THINKING = re.compile(r"claude-(?:instant|[12]|3(?!-7))")
_WITH_BUDGET = re.compile(r"claude-(?:3-7|[a-z]+-4(?:-[0-5])?(?:-20\d{6})?$)")
LEVELS = (Effort.LOW, Effort.MEDIUM, Effort.HIGH)
"""Every model with levels has these."""


def thinking_of(model: str, options: TurnOptions, *, left_tokens: int | None) -> dict[str, Any]:
    """The fields of a request. `left_tokens`: what its thinking may cost; None for no limit.

    Nothing is thought before a call that has to be made, or after calls whose thoughts nobody has
    kept: the Messages API refuses both.
    """
    effort = options.effort
    if effort is None or _WITHOUT_THINKING.match(model):
        return {}
    thinks = not (options.answer_form or options.client_tools or effort is Effort.NONE)
    if not _WITH_BUDGET.match(model):
        level = nearest_level(effort, LEVELS)
        fields: dict[str, Any] = {"output_config": {"effort": level}}
        return fields | ({"thinking": {"type": "adaptive"}} if thinks else {})
    tokens = THINKING_TOKENS[effort]
    if left_tokens is not None:
        tokens = min(tokens, left_tokens)
    if not thinks or tokens < THINKING_TOKENS[Effort.MINIMAL]:
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


def thinking_room(fields: dict[str, Any]) -> int:
    """The tokens to add to the limit of an answer, which counts thinking."""
    thinking = fields.get("thinking")
    if thinking is None:
        return 0
    return int(thinking.get("budget_tokens", THINKING_TOKENS[Effort.HIGH]))
