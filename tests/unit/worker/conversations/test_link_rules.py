"""When a link to an agent is asked for a word, counts as broken, or is given up."""

from __future__ import annotations

import pytest

from worker.conversations.container.kept_link import (
    LOSSES_MAX,
    LOSSES_WITHIN_S,
    SilenceStep,
    breaks_too_often,
    step_in_silence,
)

SILENCE_S, ALONE_S = 10.0, 3600.0


@pytest.mark.parametrize(
    ("silent_s", "is_working", "what"),
    [
        (0.0, True, SilenceStep.NOTHING),
        (10.0, True, SilenceStep.NOTHING),
        (10.1, True, SilenceStep.PING),
        (20.0, True, SilenceStep.PING),
        (20.1, True, SilenceStep.ABORT),
        # An idle one has nothing to say; it only must not think that it is alone.
        (20.1, False, SilenceStep.NOTHING),
        (900.0, False, SilenceStep.NOTHING),
        (900.1, False, SilenceStep.PING),
        (7200.0, False, SilenceStep.PING),
    ],
)
def test_silence_means_something_while_an_agent_works(
    silent_s: float, is_working: bool, what: SilenceStep
) -> None:
    said = step_in_silence(silent_s, is_working=is_working, silence_s=SILENCE_S, alone_s=ALONE_S)
    assert said is what


@pytest.mark.parametrize(
    ("losses_s", "is_too_often"),
    [
        ([], False),
        ([100.0] * (LOSSES_MAX - 1), False),
        ([100.0] * LOSSES_MAX, True),
        ([100.0 - LOSSES_WITHIN_S] + [100.0] * (LOSSES_MAX - 1), False),
        ([0.0] + [100.0] * LOSSES_MAX, True),
    ],
    ids=["first", "one less", "as many", "over a longer time", "after an old one"],
)
def test_a_link_that_broke_many_times_within_a_minute_is_given_up(
    losses_s: list[float], is_too_often: bool
) -> None:
    assert breaks_too_often(losses_s, 100.0) is is_too_often
