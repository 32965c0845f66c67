"""Two lossy views of a turn become one exact sequence."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.turns.following.merge import AHEAD_MAX, Merge
from infra.wire.errors import ErrorCode, TurnFailed
from infra.wire.events import TextDelta, TurnEnded, encode_event
from infra.wire.frames import Frame
from infra.wire.ids import Fence, TurnId
from infra.wire.states import TurnState

TURN = TurnId("turn_1")
END = encode_event(TurnEnded(state=TurnState.DONE))


def payload(n: int) -> bytes:
    return encode_event(TextDelta(text=str(n)))


def frame(n: int, fence: int = 1, said: bytes | None = None) -> Frame:
    return Frame(TURN, Fence(fence), n, payload(n) if said is None else said)


def test_frames_in_order_pass_at_once() -> None:
    merge = Merge()
    assert merge.live([frame(1), frame(2)]) == [payload(1), payload(2)]
    assert merge.cursor == 2
    assert not merge.has_gap


def test_doubled_frames_are_given_once() -> None:
    merge = Merge()
    assert merge.live([frame(1), frame(1), frame(2), frame(1)]) == [payload(1), payload(2)]


def test_frames_after_a_gap_wait_for_the_log() -> None:
    merge = Merge()
    assert merge.live([frame(1), frame(3), frame(4)]) == [payload(1)]
    assert merge.has_gap
    assert merge.logged([(2, payload(2))]) == [payload(2), payload(3), payload(4)]
    assert not merge.has_gap


def test_log_beyond_held_frames_closes_the_gap() -> None:
    merge = Merge()
    merge.live([frame(3)])
    assert merge.logged([(n, payload(n)) for n in (1, 2, 3, 4, 5)]) == [
        payload(n) for n in (1, 2, 3, 4, 5)
    ]
    assert not merge.has_gap


def test_frames_of_an_older_owner_are_dropped() -> None:
    merge = Merge()
    merge.live([frame(1, fence=2)])
    assert merge.live([frame(2, fence=1, said=payload(99))]) == []
    assert merge.live([frame(2, fence=2)]) == [payload(2)]


def test_what_an_older_owner_sent_ahead_is_not_trusted_after_a_takeover() -> None:
    merge = Merge()
    merge.live([frame(1), frame(3, said=payload(99))])
    assert merge.live([frame(2, fence=2)]) == [payload(2)]
    assert merge.live([frame(3, fence=2)]) == [payload(3)]


def test_frames_continue_only_what_came_right_before_them_from_the_same_owner() -> None:
    merge = Merge()
    assert not merge.continues([frame(1)]), "the owner is not known yet"
    merge.live([frame(1)])
    assert merge.continues([frame(2), frame(3)])
    assert not merge.continues([frame(2), frame(4)])
    assert not merge.continues([frame(1), frame(2)])
    assert not merge.continues([frame(2), frame(3, fence=2)])
    assert not merge.continues([frame(2, fence=0)])
    merge.pass_over(2)
    assert merge.live([frame(3), frame(4), frame(6)]) == [payload(4)]
    assert not merge.continues([frame(5)]), "a later one is kept"


def test_nothing_follows_the_end() -> None:
    merge = Merge()
    assert merge.live([frame(1), frame(2, said=END), frame(3)]) == [payload(1), END]
    assert merge.is_ended
    assert merge.logged([(3, payload(3))]) == []
    assert not merge.continues([frame(3)])


def test_hole_in_the_log_is_never_passed_silently() -> None:
    merge = Merge()
    with pytest.raises(TurnFailed) as failed:
        merge.logged([(2, payload(2))])
    assert failed.value.code is ErrorCode.LOG_LOST


def test_frames_held_ahead_are_bounded() -> None:
    merge = Merge()
    merge.live(frame(n) for n in range(2, AHEAD_MAX * 3))
    given = merge.logged([(1, payload(1))])
    assert len(given) == AHEAD_MAX + 1
    assert merge.logged([(n, payload(n)) for n in range(len(given) + 1, AHEAD_MAX * 3)])


@dataclass
class Step:
    """Some frames arrive, or a page of the log is read."""

    numbers: list[int]
    fence: int
    is_log_read: bool


LAST = 12
steps = st.lists(
    st.builds(
        Step,
        numbers=st.lists(st.integers(1, LAST), max_size=8),
        fence=st.integers(1, 3),
        is_log_read=st.booleans(),
    ),
    max_size=30,
)


@given(steps)
def test_any_loss_doubling_order_and_takeover_gives_the_exact_sequence(story: list[Step]) -> None:
    """An older owner's frames carry other text: none of it may be shown after a newer spoke."""
    truth = {n: payload(n) for n in range(1, LAST)} | {LAST: END}
    merge, given_out, newest, logged = Merge(), [], 0, 0
    for step in story:
        stale = step.fence < newest
        newest = max(newest, step.fence if step.numbers else 0)
        frames = [frame(n, step.fence, b"stale" if stale else truth[n]) for n in step.numbers]
        given_out += merge.live(frames)
        if step.is_log_read:
            logged = min(LAST, max(logged, merge.cursor) + 2)
            page = [(n, truth[n]) for n in range(merge.cursor + 1, logged + 1)]
            given_out += merge.logged(page)
    page = [(n, truth[n]) for n in range(merge.cursor + 1, LAST + 1)]
    given_out += merge.logged(page)
    assert given_out == list(truth.values())
    assert merge.is_ended
    assert not merge.has_gap
