"""What is generated from code is what lies in the repository. `make docs` renews it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.reference import diagrams
from infra.reference import settings as reference
from infra.reference.folders import folders
from infra.reference.generated import apply, replace_part
from infra.reference.readers import PROGRAMS, read_by, readers_of
from infra.runtime.settings import Settings, load_settings
from infra.store.keys import Keys
from infra.wire.states import TURN_TRANSITIONS, TurnState

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("which", list(reference.FILES))
def test_settings_files_do_not_drift(which: str) -> None:
    assert reference.main([which, "--check"]) == 0


def test_architecture_does_not_drift() -> None:
    assert diagrams.main(["--check"]) == 0


def test_a_copied_env_example_changes_nothing() -> None:
    assert load_settings({}, env_file=ROOT / ".env.example") == load_settings({}, env_file=None)


def test_uncommented_env_example_holds_every_default() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    given = dict(line[2:].split("=", 1) for line in lines if line.startswith("# AGCLUSTER_"))
    assert {name.removeprefix("AGCLUSTER_").lower() for name in given} == set(Settings.model_fields)
    assert load_settings(given, env_file=None) == load_settings({}, env_file=None)


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_every_setting_is_read_by_a_program_or_by_the_command_alone() -> None:
    unread = {name for name in Settings.model_fields if not readers_of(name)}
    assert unread == {"base_image"}


@pytest.mark.parametrize(
    ("setting", "readers"),
    [
        ("ping_interval_s", {"api"}),
        ("side_deadline_s", {"api"}),  # looked up on a local name
        ("slots", {"worker"}),
        ("max_turns", {"api", "worker"}),  # by way of a bundle of parts
        ("egress_idle_timeout_s", {"gateway"}),
        ("container_pids", {"worker", "engine-proxy"}),
        ("host_id", {"api", "worker", "engine-proxy"}),  # by way of a property
        ("log_level", {"api", "worker", "gateway", "engine-proxy", "exporter"}),
    ],
)
def test_it_is_known_which_programs_read_a_setting(setting: str, readers: set[str]) -> None:
    assert set(readers_of(setting)) == readers


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_gets_what_is_checked_together_or_nothing_of_it(program: str) -> None:
    """Half of such a group might be refused beside the defaults of the other half."""
    for group in (
        {"retention_s", "queue_timeout_s", "turn_deadline_s"},
        {"models", "model_aliases"},
    ):
        assert group <= read_by(program) or not group & read_by(program)


def test_every_transition_is_drawn() -> None:
    drawn = diagrams.mermaid(TURN_TRANSITIONS, TurnState.QUEUED)
    assert drawn.count("-->") == 1 + sum(max(len(new), 1) for new in TURN_TRANSITIONS.values())
    assert "    running --> done\n" in drawn


def test_every_key_is_listed() -> None:
    public = [name for name, value in vars(Keys).items() if callable(value) and name[0] != "_"]
    assert len(re.findall("^- `", diagrams.keys(), re.MULTILINE)) == len(public)


def test_a_difference_fails_the_check_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.md"
    file.write_text("old\n")
    assert apply({file: "new\n"}, is_check=True) == 1
    assert file.read_text() == "old\n"
    assert "+new" in capsys.readouterr().err


def test_a_document_without_the_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="no part"):
        replace_part("text", "new", begin="<a>\n", end="<b>\n")


def test_a_package_that_says_nothing_is_not_drawn(tmp_path: Path) -> None:
    """Every folder has its sentence in the picture, so every package has a docstring."""
    package = tmp_path / "api" / "chat"
    package.mkdir(parents=True)
    (tmp_path / "api" / "__init__.py").write_text('"""The edge. And more."""\n')
    (package / "__init__.py").write_text("")
    with pytest.raises(ValueError, match="no docstring"):
        folders(tmp_path)
    (package / "__init__.py").write_text('"""A dialect."""\n')
    assert folders(tmp_path) == "```\napi/     The edge.\n  chat/  A dialect.\n```\n"
