"""The table of chaos scenarios and the table of failures name the same."""

from __future__ import annotations

from collections import Counter

from tests.chaos.scenarios import TRACKS
from tests.failures import groups


def test_every_scenario_has_a_row_and_every_row_a_scenario() -> None:
    named = {name for group in groups() for one in group.failure for name in one.chaos}
    assert named == {one.name for track in TRACKS for step in track.steps for one in step}


def test_a_scenarios_name_is_its_own() -> None:
    counts = Counter(one.name for track in TRACKS for step in track.steps for one in step)
    assert counts.most_common(1)[0][1] == 1
