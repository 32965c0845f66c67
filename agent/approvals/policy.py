"""Decides what may be done without asking. Pure, apart from following links to files."""

from __future__ import annotations

import hashlib
import json
import os.path
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.wire.agents.permissions import (
    PLACES,
    Permissions,
    RuleTarget,
    may_mean,
    subject_of,
    surely_means,
)

ONLY_READS = frozenset({"Read", "Grep", "Glob", "TodoWrite", "WebSearch", "Task", "Agent", "Skill"})
"""Tools that change nothing themselves. What a sub-agent does is asked about when it does it."""
_IN_PLAN = ONLY_READS | {"WebFetch"}

DENIED = "This call is not allowed here. Its operator has forbidden it; the user cannot allow it."
NOT_YET = (
    "You are in plan mode: nothing may be changed yet. Look at what you need, then present your "
    "plan with PresentPlan."
)


@dataclass(frozen=True)
class CallDenied:
    """The call is not made, and the model is told why."""

    why: str


@dataclass(frozen=True)
class Asks:
    """The user decides. `scopes`: what "always" would allow."""

    scopes: tuple[str, ...]


class CallPolicy:
    """What one turn's calls may do. `granted` are the scopes that the user has allowed for good."""

    def __init__(
        self,
        permissions: Permissions,
        *,
        workspace: Path,
        granted: Collection[str] = (),
        is_planning: bool = False,
    ) -> None:
        self._permissions = permissions
        self._workspace = workspace
        self.granted = set(granted)
        self.is_planning = is_planning
        """Nothing may be changed before a plan is approved."""

    def decide(self, tool: str, given: Mapping[str, Any]) -> CallDenied | Asks | None:
        """What becomes of a call; None if it is made."""
        rules, target = self._permissions, self._target(tool, given)
        if any(may_mean(rule, target) for rule in rules.deny or ()):
            return CallDenied(DENIED)
        is_allowed = any(surely_means(rule, target) for rule in rules.allow or ())
        if self.is_planning and tool not in _IN_PLAN and not is_allowed:
            return CallDenied(NOT_YET)
        scopes = [f"rule:{rule}" for rule in rules.ask or () if may_mean(rule, target)]
        if not scopes and rules.mode == "ask" and tool not in ONLY_READS and not is_allowed:
            scopes = [f"call:{digest_of(tool, given)}" if tool == "Bash" else f"tool:{tool}"]
        left = tuple(self._narrow(scope, tool, given) for scope in scopes)
        asked = tuple(scope for scope in left if scope not in self.granted)
        return Asks(asked) if asked else None

    def _narrow(self, scope: str, tool: str, given: Mapping[str, Any]) -> str:
        """A rule for all of the shell is too much to allow at once: only this command is."""
        is_whole_shell = scope.startswith("rule:") and not scope.endswith(")") and tool == "Bash"
        return f"call:{digest_of(tool, given)}" if is_whole_shell else scope

    def _target(self, tool: str, given: Mapping[str, Any]) -> RuleTarget:
        subject = subject_of(tool, given)
        if tool in PLACES:
            subject = os.path.realpath(self._workspace / subject)
        return RuleTarget(tool, subject)


def digest_of(tool: str, given: Mapping[str, Any]) -> str:
    """What a call with exactly this input is known by."""
    told = json.dumps([tool, given], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()[:32]
