"""`agcluster agents validate` says what is wrong, and what would not work here."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.ops.agents import app


def validated(folder: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["validate", "--dir", str(folder)])
    return done.exit_code, done.output


def test_a_fault_in_a_skill_is_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("description: A.\nskills: [own/pdf]\n")
    code, told = validated(tmp_path)
    assert code == 1
    assert f"{tmp_path}/a.yaml:2: skills.0: own/pdf: No such file" in told
    (tmp_path / "own" / "pdf").mkdir(parents=True)
    (tmp_path / "own" / "pdf" / "SKILL.md").write_text("---\ndescription: D.\n---\nHow.")
    assert validated(tmp_path) == (0, "1 agents, all valid\n")


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("AGENT_IMAGES", "pandas:2", "a: image: pandas:1 is not one of AGCLUSTER_AGENT_IMAGES"),
        ("ISOLATION", "bubblewrap", "a: image: agents in bubblewrap have no images"),
        ("AGENT_IMAGES", "pandas:1", ""),
    ],
)
def test_an_image_that_this_machine_would_refuse_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"AGCLUSTER_{setting}", value)
    (tmp_path / "a.yaml").write_text("image: pandas:1\n")
    code, said = validated(tmp_path)
    assert code == 0, "workers may have other settings"
    assert told in said
    assert said.endswith("1 agents, all valid\n")
    assert len(said.splitlines()) == (2 if told else 1)
