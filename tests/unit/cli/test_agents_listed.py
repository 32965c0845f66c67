"""`agcluster agents` shows what a deployment with these settings offers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.main import app
from infra.profiles.shipped import shipped_agents


def listed(*arguments: str) -> set[str]:
    done = CliRunner().invoke(app, ["agents", "list", "--json", *arguments])
    assert done.exit_code == 0, done.output
    return set(json.loads(done.output))


def test_agents_that_ship_are_listed_beside_an_own_one_and_can_be_taken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert listed() == set(shipped_agents())
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "ours.yaml").write_text("extends: data-analyst\nmax_turns: 9\n")
    assert listed() == {*shipped_agents(), "ours"}
    assert listed("--dir", "agents") == {"ours"}
    monkeypatch.setenv("AGCLUSTER_SHIPPED_AGENTS", "false")
    assert listed() == {"ours"}
