"""Decisions hold from the prompt on with which they were made."""

from __future__ import annotations

from agent.memory.notes import UserDecisions, notes_in

ENTRIES = [{"type": "user", "uuid": id} for id in ("p1", "a1", "p2", "a2")]


def test_who_goes_back_goes_back_to_before_the_decision() -> None:
    granted = UserDecisions().and_granted(["tool:Write"]).entry(after="p2")
    asked = UserDecisions().and_asked(["toolu_1"]).entry(after="p1")
    assert granted
    assert asked
    entries = [*ENTRIES, granted, asked]
    assert notes_in(entries, at=None)[0] == UserDecisions(
        frozenset({"toolu_1"}), frozenset({"tool:Write"})
    )
    assert notes_in(entries, at="a2")[0].granted
    assert notes_in(entries, at="a1") == (UserDecisions(frozenset({"toolu_1"})), [asked])


def test_a_note_of_a_prompt_that_is_not_there_holds_nothing() -> None:
    lost = UserDecisions().and_plan().entry(after="elsewhere")
    assert lost
    assert notes_in([*ENTRIES, lost], at=None) == (UserDecisions(), [])


def test_what_other_entries_say_is_no_note() -> None:
    said = {"type": "user", "uuid": "p3", "after": "p1", "granted": ["tool:Write"], "plan": True}
    assert notes_in([*ENTRIES, said], at=None)[0] == UserDecisions()
    assert UserDecisions().entry(after="p1") is None
