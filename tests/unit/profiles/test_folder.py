"""A folder of profiles is read again when it has changed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from infra.profiles.folder import ProfileFolder
from infra.profiles.shipped import shipped_agents


def test_a_change_is_seen_and_a_mistake_takes_nothing_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ProfileFolder(tmp_path / "agents")
    assert not folder.look()
    assert folder.profiles == {}
    (tmp_path / "agents").mkdir()
    file = tmp_path / "agents" / "one.yaml"
    file.write_text("description: first\n")
    assert folder.look()
    assert not folder.look()
    file.write_text("descripton: a mistake\n")
    with caplog.at_level(logging.ERROR):
        assert not folder.look()
        assert not folder.look()
    assert folder.profiles["one"].description == "first"
    assert len(caplog.records) == 1
    assert "one.yaml:1: descripton" in caplog.text
    file.write_text("description: second\n")
    assert folder.look()
    assert folder.profiles["one"].description == "second"


def test_a_prompt_beside_it_counts(tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("one")
    (tmp_path / "a.yaml").write_text("system_prompt: {file: p.md}\n")
    folder = ProfileFolder(tmp_path)
    assert folder.look()
    (tmp_path / "p.md").write_text("another")
    assert folder.look()
    prompt = folder.profiles["a"].system_prompt
    assert prompt is not None
    assert prompt.text == "another"


def test_agents_that_ship_are_there_without_a_folder_and_give_way_to_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = shipped_agents()
    folder = ProfileFolder(tmp_path, shipped=shipped)
    assert folder.profiles == shipped
    (tmp_path / "team.yaml").write_text("description: Ours.\n")
    (tmp_path / "ours.yaml").write_text("extends: reviewer\ndescription: Reviews ours.\n")
    assert folder.look()
    assert set(folder.profiles) == {*shipped, "ours"}
    assert folder.profiles["team"].description == "Ours."
    assert folder.profiles["ours"].system_prompt == shipped["reviewer"].system_prompt
    (tmp_path / "researcher.yaml").write_text("extends: researcher\nmax_turns: 7\n")
    assert folder.look()
    ours = shipped["researcher"].model_copy(update={"max_turns": 7})
    assert folder.profiles["researcher"] == ours
    (tmp_path / "team.yaml").write_text("oops: 1\n")
    with caplog.at_level(logging.ERROR):
        assert not folder.look()
    assert folder.profiles["team"].description == "Ours."
