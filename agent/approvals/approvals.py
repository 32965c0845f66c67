"""What one turn asks its user about, and what they said to what the turn before has asked. Pure,
apart from `agent.approvals.policy`.

A call that has to be approved stays open, like a question (`agent.questions`): the turn ends with a
prompt as its text, and what the user says next decides. An approved call is made again in the
model's stead (`agent.cli.stead`), under an id that only this turn knows and with the input that was
shown. So nothing that a model, a page or a tool says is an approval.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.approvals import prompts
from agent.approvals.plans import PLAN_TOOL, PlanOffer, plan_in
from agent.approvals.policy import Asks, CallDenied, CallPolicy, digest_of
from agent.approvals.replies import CALLS_MAX, UserReply, UserVerdict, replies_in
from agent.asked_kind import OTHERWISE_ASKED, AskedKind, Asking
from agent.cli.offers import HOLD, Hold, Offer, OfferedCall
from agent.memory.notes import UserDecisions
from infra.wire.agents.permissions import Permissions
from infra.wire.history.paired import QUESTION_TOOL
from infra.wire.ids import client_call_id

Json = dict[str, Any]

NOT_BY_HELPERS = (
    "This call needs the user's approval, and only the main agent can ask for it. Tell it what "
    "should be done, with the exact input."
)
CANNOT_ASK = (
    "This call needs the user's approval, and your answer does not go to them: they cannot be "
    "asked. Do without it, and say so."
)
TOO_LONG = (
    f"This call needs the user's approval, and its input is longer than the "
    f"{prompts.SHOWN_MAX_CHARS} characters that they can be shown. Do it in smaller calls."
)
LATER = "Too many calls need the user's approval at once. Make this one when they have answered."
APPROVED = "The user approved this call. It is made now, with exactly this input."
FOR_GOOD = " They also said that such calls need not be approved again."
REFUSED = (
    "The user did not approve this call, so it was not made. Do not reach the same in another way."
)
ASKED_AGAIN = (
    "The user said: {words}\n\nThat does not approve or refuse it, so they are asked again."
)
PLAN_APPROVED = "The user approved the plan. You have left plan mode: carry it out."
PLAN_REFUSED = "The user did not approve the plan, and you are still in plan mode."
CHANGED = "This is not the call that the user approved, so it was not made."


class TurnApprovals:
    """Asks before calls, and knows what was said about those that have asked."""

    def __init__(
        self,
        permissions: Permissions,
        *,
        workspace: Path,
        notes: UserDecisions,
        can_ask: bool,
        is_one_at_a_time: bool = False,
        kind: AskedKind | None = None,
    ) -> None:
        """`can_ask`: the answer goes to somebody who can be asked. `kind` is shared by all that the
        turn may ask."""
        self._kind = kind or AskedKind()
        self._permissions = permissions
        self._can_ask = can_ask
        self._asks_max = 1 if is_one_at_a_time else CALLS_MAX
        self._policy = CallPolicy(
            permissions,
            workspace=workspace,
            granted=notes.granted,
            is_planning=permissions.mode == "plan" and not notes.is_plan_approved,
        )
        self._plan = PlanOffer(self._kind) if self._policy.is_planning and can_ask else None
        self._asks: dict[str, Asks] = {}
        self._made: dict[str, str] = {}
        """Of each approved call that is made in this turn: its id, and the digest of its input."""
        self.to_make: list[OfferedCall] = []
        """What is made in the model's stead, as the answer to the result of `answers_to`."""
        self.answers_to: str | None = None
        self.new_notes = UserDecisions()
        """What the user has decided for good in this turn."""

    @property
    def offers(self) -> Sequence[Offer]:
        """Its own tools."""
        return [self._plan.offer] if self._plan else []

    @property
    def wish(self) -> str | None:
        """What is added to the prompt."""
        return self._plan.wish if self._plan and self._policy.is_planning else None

    # Before each call

    def gate(self, call: OfferedCall, is_by_helper: bool) -> Hold | str | None:
        """What becomes of a call: it stays open, is refused for this reason, or is made."""
        decided = self._policy.decide(call.name, call.input)
        if isinstance(decided, CallDenied):
            return decided.why
        if (approved := self._made.get(call.id)) is not None and not is_by_helper:
            return None if approved == digest_of(call.name, call.input) else CHANGED
        if decided is None:
            return None
        if is_by_helper:
            return NOT_BY_HELPERS
        if not self._can_ask:
            return CANNOT_ASK
        if prompts.is_too_long(call.input):
            return TOO_LONG
        if not self._kind.takes(Asking.CALLS):
            return OTHERWISE_ASKED
        if len(self._asks) >= self._asks_max:
            return LATER
        self._asks[call.id] = decided
        return HOLD

    def holds(self, id: str, tool: str, given: Mapping[str, Any]) -> bool:
        """Whether a call of the main agent will ask, so that it is no work to be shown."""
        is_made = id in self._made or not self._can_ask
        return not is_made and isinstance(self._policy.decide(tool, given), Asks)

    # What the user is told

    def is_asked(self, call: OfferedCall) -> bool:
        """Whether the open call waits for an approval."""
        return call.name == PLAN_TOOL or call.id in self._asks

    def text_of(self, calls: Iterable[OfferedCall]) -> str:
        """All that is asked, as the user reads it."""
        asked = [call for call in calls if self.is_asked(call)]
        plans = [prompts.text_of_plan(plan_in(c.input)) for c in asked if c.name == PLAN_TOOL]
        others = [call for call in asked if call.name != PLAN_TOOL]
        options = self._options([self._asks[call.id] for call in others])
        return "\n\n".join([*plans, *([prompts.text_of_calls(others, options)] if others else ())])

    def told(self, call: OfferedCall) -> Json:
        """What is asked by one call, for a program."""
        if call.name == PLAN_TOOL:
            plan = plan_in(call.input)
            return {"kind": "plan", "text": prompts.text_of_plan(plan), "plan": plan}
        options = self._options([self._asks[call.id]])
        return {
            "kind": "permission",
            "text": prompts.text_of_calls([call], options),
            "options": options,
            "tool": call.name,
            "input": dict(call.input),
            "digest": digest_of(call.name, call.input),
        }

    def _options(self, asks: Sequence[Asks]) -> list[str]:
        always = self._permissions.always or "conversation"
        return prompts.options_of(asks, for_turn=None if always == "never" else always == "turn")

    # What the user said

    def answered(self, said: Sequence[Json], waiting: Sequence[OfferedCall]) -> list[Json]:
        """The user's message, with a result for each of the calls that wait for one. Called again
        for the same turn, it starts from the beginning."""
        self.to_make, self.answers_to, self._made = [], None, {}
        if all(call.name == QUESTION_TOOL for call in waiting):
            return list(said)
        words = "\n\n".join(str(b.get("text")) for b in said if b.get("type") == "text")
        given = {id: text for call in waiting for id, text in _given(call, said)}
        results = [
            self._result(call, reply) for call, reply in self._replies(waiting, words, given)
        ]
        is_used = {client_call_id(id) for id in given}
        rest = [
            block
            for block in said
            if block.get("type") != "text"
            and client_call_id(str(block.get("tool_use_id"))) not in is_used
        ]
        if len(given) == len(waiting):  # A program has answered each, and may say more.
            rest += [block for block in said if block.get("type") == "text"]
        return [*results, *rest]

    def _replies(
        self, waiting: Sequence[OfferedCall], words: str, given: Mapping[str, str]
    ) -> Iterable[tuple[OfferedCall, UserReply]]:
        has_always = self._permissions.always != "never"
        kinds = {c.name if c.name in _OWN else "" for c in waiting if c.id not in given}
        together = [c for c in waiting if c.id not in given and c.name not in _OWN]
        told = dict(
            zip(
                (call.id for call in together),
                replies_in(words, len(together), has_always=has_always),
                strict=True,
            )
        )
        for call in waiting:
            text = given.get(call.id, words)
            # Of several kinds, the words may be meant for any.
            if call.name == QUESTION_TOOL or (call.id not in given and len(kinds) > 1):
                yield call, UserReply(UserVerdict.UNCLEAR, text)
            elif call.id in told:
                yield call, told[call.id]
            else:
                is_always = has_always and call.name != PLAN_TOOL
                yield call, replies_in(text, 1, has_always=is_always)[0]

    def _result(self, call: OfferedCall, reply: UserReply) -> Json:
        if call.name == QUESTION_TOOL:
            return _result(call, f"The user answered: {reply.words}")
        if call.name == PLAN_TOOL:
            return self._plan_result(call, reply)
        self.answers_to = self.answers_to or call.id
        if reply.verdict in (UserVerdict.YES, UserVerdict.ALWAYS):
            is_for_good = reply.verdict is UserVerdict.ALWAYS and self._grant(call)
            self._make(call, is_approved=True)
            return _result(call, APPROVED + (FOR_GOOD if is_for_good else ""))
        if reply.verdict is UserVerdict.UNCLEAR and self._permissions.unanswered == "ask":
            self._make(call, is_approved=False)
            return _result(call, ASKED_AGAIN.format(words=reply.words))
        return _result(call, _because(REFUSED, reply.words), is_error=True)

    def _plan_result(self, call: OfferedCall, reply: UserReply) -> Json:
        if reply.verdict not in (UserVerdict.YES, UserVerdict.ALWAYS):
            return _result(call, _because(PLAN_REFUSED, reply.words), is_error=True)
        self._policy.is_planning = False
        self.new_notes = self.new_notes.and_plan()
        return _result(call, PLAN_APPROVED)

    def _grant(self, call: OfferedCall) -> bool:
        decided = self._policy.decide(call.name, call.input)
        if not isinstance(decided, Asks):
            return False
        self._policy.granted.update(decided.scopes)
        if self._permissions.always in (None, "conversation"):
            self.new_notes = self.new_notes.and_granted(decided.scopes)
        return True

    def _make(self, call: OfferedCall, *, is_approved: bool) -> None:
        made = OfferedCall(f"toolu_{uuid.uuid4().hex[:24]}", call.name, call.input)
        self.to_make.append(made)
        if is_approved:
            self._made[made.id] = digest_of(made.name, made.input)

    def noted(self, left_open: Collection[OfferedCall]) -> UserDecisions:
        """What has to be remembered of the turn, which ended with these calls open."""
        asked = [call.id for call in left_open if self.is_asked(call)]
        return self.new_notes.and_asked(asked)


_OWN = frozenset({QUESTION_TOOL, PLAN_TOOL})


def arguments_of(told: Json) -> str:
    """What a program is told, as the arguments of its function."""
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def _given(call: OfferedCall, said: Sequence[Json]) -> Iterable[tuple[str, str]]:
    """The result that a program has sent for a call, as words."""
    ids = (call.id, client_call_id(call.id))
    for block in said:
        if block.get("type") == "tool_result" and block.get("tool_use_id") in ids:
            content = block.get("content") or ""
            parts = [content] if isinstance(content, str) else [c.get("text") for c in content]
            yield call.id, "\n".join(str(part) for part in parts if part)
            return


def _because(head: str, words: str) -> str:
    return f"{head} They said: {words}" if words else head


def _result(call: OfferedCall, text: str, *, is_error: bool = False) -> Json:
    return {"type": "tool_result", "tool_use_id": call.id, "content": text, "is_error": is_error}
