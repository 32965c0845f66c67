"""The table of chaos scenarios and the failure table of ARCHITECTURE.md name the same."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.chaos.scenarios import TRACKS

ARCHITECTURE = Path(__file__).resolve().parents[3] / "ARCHITECTURE.md"


def test_every_scenario_has_a_row_and_every_row_a_scenario() -> None:
    listed = re.findall(r"chaos: ((?:`\w+`(?:, )?)+)", ARCHITECTURE.read_text())
    named = {name for names in listed for name in re.findall(r"`(\w+)`", names)}
    named = {name for name in named if not name.startswith("test_")}
    assert named == {one.name for track in TRACKS for step in track.steps for one in step}


def test_a_scenarios_name_is_its_own() -> None:
    counts = Counter(one.name for track in TRACKS for step in track.steps for one in step)
    assert counts.most_common(1)[0][1] == 1
