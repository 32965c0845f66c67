"""`agcluster check-settings`, as the service `settings` of compose.yaml runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.main import app


def checked(file: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check-settings", "--file", str(file)])
    return done.exit_code, done.output


@pytest.mark.parametrize("name", [".env", "prod.env"])
def test_a_file_of_known_settings_passes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("AGCLUSTER_SLOTS=3\nCOMPOSE_PROFILES=demo\n")
    mounted = tmp_path if name == ".env" else tmp_path / name
    assert checked(mounted) == (0, "1 settings, all known\n")


def test_a_name_that_is_no_setting_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AGCLUSTER_SLOT=3\n")
    code, said = checked(tmp_path)
    assert code != 0
    assert "AGCLUSTER_SLOT: is not a setting" in said


def test_a_folder_without_the_file_is_told_of(tmp_path: Path) -> None:
    """Compose does not say here what `--env-file` named, so "all known" would be a false word."""
    code, said = checked(tmp_path)
    assert code == 0
    assert "nothing is checked" in said
