"""The plan that an agent presents before it may change anything. Pure.

The CLI's own plan mode keeps the plan in a file of its container, and holds nothing back by itself.
Ours is an input of a call, so it is in the transcript and on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.approvals.prompts import SHOWN_MAX_CHARS
from agent.asked_kind import OTHERWISE_ASKED, AskedKind, Asking
from agent.cli.offers import CallReply, Offer, OfferedCall

PLAN_TOOL = "PresentPlan"
"""Not `ExitPlanMode`, as in Claude Code: of a tool of that name the CLI drops the input."""

DESCRIPTION = (
    "Present your plan to your user when you have looked at what you need. Your turn ends with "
    "this call. If they approve the plan you leave plan mode and carry it out; otherwise you hear "
    "what should be different."
)
WISH = (
    "[You are in plan mode: look, but change nothing. Calls that change something are refused. "
    f"When you know what to do, call `{PLAN_TOOL}` with the plan.]"
)
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"plan": {"type": "string", "description": "The whole plan, as Markdown."}},
    "required": ["plan"],
}


class PlanOffer:
    """The tool with which one turn presents its plan."""

    wish = WISH

    def __init__(self, kind: AskedKind) -> None:
        self._kind = kind
        self._is_presented = False
        self.offer = Offer(PLAN_TOOL, DESCRIPTION, _SCHEMA, self._judge)

    def _judge(self, call: OfferedCall) -> CallReply | None:
        plan = plan_in(call.input)
        if self._is_presented:
            return CallReply("You have presented a plan already.")
        if not plan.strip():
            return CallReply("There is no plan in this call. Give `plan`, as text.")
        if len(plan) > SHOWN_MAX_CHARS:
            return CallReply(f"The plan is longer than {SHOWN_MAX_CHARS} characters. Shorten it.")
        if not self._kind.takes(Asking.PLAN):
            return CallReply(OTHERWISE_ASKED)
        self._is_presented = True
        return None


def plan_in(given: Mapping[str, Any]) -> str:
    """The plan in a call; empty if there is none."""
    plan = given.get("plan")
    return plan if isinstance(plan, str) else ""
