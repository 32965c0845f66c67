"""`agcluster check-settings`, as the service `settings` of compose.yaml runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.cli.compose_env import NotShown, files_in_use, own_container
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


def started(*files: str, source: str, mounted: Path) -> dict[str, Any]:
    """What the engine says of a container that Compose has started with these files."""
    label = {"com.docker.compose.project.environment_file": ",".join(files)} if files else {}
    mounts = [{"Source": source, "Destination": str(mounted)}]
    return {"Config": {"Labels": label}, "Mounts": mounts}


@pytest.mark.parametrize("before", ["", "/host_mnt"])
def test_the_file_that_compose_was_told_of_is_the_one_to_check(tmp_path: Path, before: str) -> None:
    """`--env-file prod.env` with a `.env` beside it: the `.env` was checked."""
    (tmp_path / ".env").write_text("")
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "prod.env").write_text("")
    told = "/srv/agc/envs/prod.env"
    found = files_in_use(started(told, source=f"{before}/srv/agc", mounted=tmp_path), tmp_path)
    assert found == {told: tmp_path / "envs" / "prod.env"}


def test_a_file_that_is_mounted_by_itself_is_found(tmp_path: Path) -> None:
    mounted = tmp_path / "env"
    mounted.write_text("")
    told = "/etc/prod.env"
    assert files_in_use(started(told, source=told, mounted=mounted), mounted) == {told: mounted}


@pytest.mark.parametrize("told", ["/etc/prod.env", "/srv/agc-2/prod.env", "/srv/agc/gone.env"])
def test_a_file_that_is_not_shown_is_named(tmp_path: Path, told: str) -> None:
    (tmp_path / "prod.env").write_text("")
    with pytest.raises(NotShown, match=told):
        files_in_use(started(told, source="/srv/agc", mounted=tmp_path), tmp_path)


def test_without_such_a_file_compose_takes_the_usual_one(tmp_path: Path) -> None:
    assert files_in_use(started(source="/srv/agc", mounted=tmp_path), tmp_path) == {}


def test_an_engine_that_cannot_be_asked_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        own_container(tmp_path / "no.sock")
