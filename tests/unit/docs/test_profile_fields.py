"""Each field of an agent's profile has a test that shows it, and a row for the people who write
one."""

from __future__ import annotations

import re
from pathlib import Path

from infra.profiles.read import MADE
from infra.wire.agents.profile import AgentProfile
from tests import failures
from tests.profile_fields import SHOWN_BY, fields_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "agents.md"


def test_every_field_of_a_profile_is_shown_by_a_test() -> None:
    assert set(fields_of()) == set(SHOWN_BY), "a row in tests/profile_fields.py"
    assert sorted(set(SHOWN_BY.values()) - failures.tests_by_name().keys()) == []


def test_every_field_of_a_profile_has_a_row_on_the_page() -> None:
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert sorted(AgentProfile.model_fields.keys() - told - MADE) == []


def test_the_table_sees_fields_inside_others() -> None:
    assert {"system_prompt.mode", "sub_agents.model", "mcp_servers.url"} <= set(fields_of())
