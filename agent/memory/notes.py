"""What we note in a session's transcript about its user's decisions. Pure.

A note is an entry of our own among the CLI's. It travels with the transcript to the store and to
other hosts, and holds from the prompt on with which the user has decided. So who goes back to
before that prompt goes back to before the decision. Nothing that a model or a tool says becomes an
entry of this type; the CLI never gets one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

Json = dict[str, Any]

NOTE = "agcluster-note"
"""The type of these entries."""
_NOTED_MAX = 1000


@dataclass(frozen=True)
class UserDecisions:
    """Decisions of the user, and what they were asked about."""

    asked: frozenset[str] = frozenset()
    """The ids of calls that have asked."""
    granted: frozenset[str] = frozenset()
    """What needs no approval any more (`agent.approvals.policy`)."""
    is_plan_approved: bool = False

    def and_asked(self, ids: Iterable[str]) -> UserDecisions:
        """These, and calls that have asked."""
        return replace(self, asked=self.asked | set(ids))

    def and_granted(self, scopes: Iterable[str]) -> UserDecisions:
        """These, and what needs no approval any more."""
        return replace(self, granted=self.granted | set(scopes))

    def and_plan(self) -> UserDecisions:
        """These, and an approved plan."""
        return replace(self, is_plan_approved=True)

    def entry(self, *, after: str) -> Json | None:
        """The transcript's entry, for decisions of the prompt with that uuid; None for nothing."""
        if self == UserDecisions():
            return None
        return {
            "type": NOTE,
            "after": after,
            "asked": sorted(self.asked),
            "granted": sorted(self.granted),
            "plan": self.is_plan_approved,
        }


def is_note(entry: Json) -> bool:
    """Whether an entry is one of ours."""
    return entry.get("type") == NOTE


def notes_in(entries: Sequence[Json], *, at: str | None) -> tuple[UserDecisions, list[Json]]:
    """What holds at that entry, or at the end; and the entries that say so."""
    places = {entry["uuid"]: i for i, entry in enumerate(entries) if entry.get("uuid")}
    last = places.get(at, len(entries)) if at is not None else len(entries)
    notes, holding = UserDecisions(), list[Json]()
    for entry in filter(is_note, entries):
        if (place := places.get(entry.get("after"))) is not None and place <= last:
            notes = _with(notes, entry)
            holding.append(entry)
    return notes, holding[-_NOTED_MAX:]


def _with(notes: UserDecisions, entry: Json) -> UserDecisions:
    notes = notes.and_asked(entry.get("asked") or ()).and_granted(entry.get("granted") or ())
    return notes.and_plan() if entry.get("plan") is True else notes
