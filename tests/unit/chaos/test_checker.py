"""What the chaos tests' checker calls lost, doubled, late, silent or run twice."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.chaos.checker import (
    VISIBLE,
    Arrival,
    Asked,
    Attempt,
    Failure,
    How,
    Outcome,
    Promise,
    Verdict,
    check,
)

ASKED = Asked("turn-1", numbers=5)


def attempt(
    numbers: Iterable[int] = (),
    *,
    how: How = How.ASK,
    began_s: float = 0.0,
    every_s: float = 1.0,
    done: bool = False,
    failure: Failure | None = None,
    broke: str | None = None,
    is_over: bool = True,
    first_id: int = 2,
) -> Attempt:
    """An attempt that got these numbers, one per interval."""
    arrivals = [
        Arrival(began_s + i * every_s, first_id + i, f"{n} ") for i, n in enumerate(numbers)
    ]
    ended_s = (arrivals[-1].at_s if arrivals else began_s) if is_over else None
    made = Attempt(how, "api-0", began_s, arrivals, [], failure, done, broke)
    made.ended_s = ended_s
    return made


def judge(*attempts: Attempt, promise: Promise | None = None, marks: int | None = None) -> Verdict:
    return check(ASKED, attempts, promise or Promise(), marks=marks)


def test_a_whole_answer_keeps_its_promise() -> None:
    verdict = judge(attempt(range(5), done=True), marks=1)
    assert verdict.is_kept
    assert verdict.outcome is Outcome.COMPLETE


def test_stamped_numbers_and_chunks_of_several_count_the_same() -> None:
    whole = attempt(done=True)
    whole.arrivals = [Arrival(0.0, 2, "0@17 1@18 "), Arrival(1.0, 3, "2@19 3@"), Arrival(2, 4, "2")]
    whole.arrivals.append(Arrival(3.0, 5, "0 4"))
    assert judge(whole).is_kept


def test_a_lost_number_is_named() -> None:
    verdict = judge(attempt([0, 1, 3, 4], done=True))
    assert verdict.lost == (2,)
    assert verdict.violations == ("lost: 2 (1 in all)",)


def test_a_complete_answer_without_its_tail_has_lost_it() -> None:
    assert judge(attempt([0, 1, 2], done=True)).lost == (3, 4)


def test_a_failed_answer_may_end_early_but_not_skip() -> None:
    failed = attempt([0, 1], failure=Failure("container_lost", "gone"))
    assert judge(failed, promise=Promise(VISIBLE)).is_kept
    skipping = attempt([0, 2], failure=Failure("container_lost", "gone"))
    assert judge(skipping, promise=Promise(VISIBLE)).lost == (1,)


def test_a_doubled_number_is_named() -> None:
    verdict = judge(attempt([0, 1, 1, 2, 3, 4], done=True))
    assert verdict.doubled == (1,)
    assert not verdict.is_kept


def test_numbers_out_of_order_are_named() -> None:
    assert judge(attempt([0, 2, 1, 3, 4], done=True)).disordered == (1,)


def test_more_than_was_asked_for_is_a_violation() -> None:
    assert "never asked for" in judge(attempt(range(6), done=True)).violations[0]


def test_a_resume_goes_on_where_the_stream_broke() -> None:
    first = attempt([0, 1], broke="reset by peer")
    rest = attempt([2, 3, 4], how=How.RESUME, began_s=2.0, done=True, first_id=4)
    assert judge(first, rest).is_kept


def test_a_resume_that_begins_too_early_doubles() -> None:
    first = attempt([0, 1], broke="reset by peer")
    rest = attempt([1, 2, 3, 4], how=How.RESUME, began_s=2.0, done=True)
    assert judge(first, rest).doubled == (1,)


def test_a_repeat_is_a_whole_answer_of_its_own() -> None:
    first = attempt([0, 1], broke="reset by peer")
    again = attempt(range(5), how=How.REPEAT, began_s=2.0, done=True)
    assert judge(first, again).is_kept


def test_a_stream_that_just_stops_is_silent_and_never_allowed() -> None:
    verdict = judge(attempt([0, 1]), promise=Promise(VISIBLE | {Outcome.COMPLETE}))
    assert verdict.outcome is Outcome.SILENT
    assert not verdict.is_kept


def test_a_stream_without_an_end_hangs() -> None:
    assert judge(attempt([0, 1], is_over=False)).outcome is Outcome.HUNG


def test_a_broken_connection_nobody_followed_is_told_apart() -> None:
    assert judge(attempt([0], broke="reset by peer")).outcome is Outcome.BROKEN


def test_silence_between_numbers_is_late() -> None:
    slow = attempt(range(5), every_s=21.0, done=True)
    assert judge(slow).violations[0].startswith("late: 21.0 s of silence")


def test_waiting_for_the_first_number_is_not_silence() -> None:
    queued = attempt(range(5), done=True)
    queued.began_s = -100.0
    assert judge(queued).is_kept


def test_silence_before_the_visible_end_counts() -> None:
    failed = attempt([0], failure=Failure("agent_failed", "oh"))
    failed.ended_s = 25.0
    verdict = judge(failed, promise=Promise(VISIBLE, silence_max_s=20))
    assert verdict.longest_silence_s == 25.0
    assert not verdict.is_kept


def test_an_end_long_after_the_fault_is_late() -> None:
    failed = attempt([0], failure=Failure("agent_failed", "oh"))
    failed.ended_s = 45.0
    promise = Promise(VISIBLE, silence_max_s=60, end_within_s=30)
    verdict = check(ASKED, [failed], promise, last_fault_s=10.0)
    assert verdict.violations == ("late: it ended 35.0 s after the fault, promised 30",)


@pytest.mark.parametrize(("marks", "violations"), [(0, 1), (1, 0), (2, 1)])
def test_a_tool_runs_once(marks: int, violations: int) -> None:
    assert len(judge(attempt(range(5), done=True), marks=marks).violations) == violations


def test_a_tool_of_a_failed_turn_ran_at_most_once() -> None:
    failed = attempt([], failure=Failure("agent_failed", "oh"))
    assert judge(failed, promise=Promise(VISIBLE), marks=0).is_kept
    assert not judge(failed, promise=Promise(VISIBLE), marks=2).is_kept


def test_an_error_of_another_kind_is_not_honest() -> None:
    failed = attempt([0], failure=Failure("agent_failed", "oh"))
    promise = Promise(VISIBLE, codes=frozenset({"container_lost"}))
    assert "the error says agent_failed" in judge(failed, promise=promise).violations[0]


@pytest.mark.parametrize("code", ["internal_error", "no_json"])
def test_no_fault_excuses_a_bug(code: str) -> None:
    failed = attempt([0], failure=Failure(code, "oh"))
    assert not judge(failed, promise=Promise(VISIBLE)).is_kept


def test_a_refusal_for_now_says_when_to_come_back() -> None:
    refused = attempt(failure=Failure("store_unavailable", "later", status=503))
    assert judge(refused, promise=Promise(VISIBLE)).violations == ("503 without Retry-After",)


def test_words_between_the_numbers_are_named() -> None:
    whole = attempt(range(5), done=True)
    whole.arrivals.insert(2, Arrival(1.0, 4, "--- "))
    whole.arrivals[3:] = [Arrival(a.at_s, a.id + 1, a.text) for a in whole.arrivals[3:]]
    assert judge(whole).notes == ("---",)
    assert not judge(whole).is_kept
    assert judge(whole, promise=Promise(has_notes=True)).is_kept


def test_event_ids_only_grow() -> None:
    whole = attempt(range(5), done=True)
    whole.arrivals[2] = Arrival(2.0, 3, "2 ")
    assert judge(whole).violations == ("event ids that do not grow: 3 (1 in all)",)


def test_the_story_tells_when_and_what() -> None:
    first = attempt([0, 1], broke="reset by peer", began_s=100.0, every_s=3.0)
    rest = attempt([2, 4], how=How.RESUME, began_s=110.0, done=True, first_id=4)
    told = judge(first, rest).story(since_s=100.0)
    assert "lost: 3 (1 in all)" in told
    assert "0.00 s to 3.00 s: 2 texts, events 2 to 3" in told
    assert "3.0 s of silence after event 2" in told
    assert "10.00 s: resume at api-0" in told
    assert "reset by peer" in told
