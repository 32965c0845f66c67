"""The files of an agent's bundle are read from its folder, and nothing that leads elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.profiles.bundles import read_bundle
from infra.wire.agents.bundle import BUNDLE_MAX_BYTES, BundleFile, BundleRefused, unpack

HOW_TO = "---\ndescription: D.\n---\nHow to."


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(
        tmp_path / "own" / "pdf",
        **{"SKILL.md": HOW_TO, "deep__er__a.txt": "a"},
    )
    written(tmp_path / "start", **{"README.md": "Read me.", "src__run": "run"})
    (tmp_path / "start" / "src" / "run").chmod(0o750)
    return tmp_path


def test_skills_and_files_are_read_with_their_folders(folder: Path) -> None:
    raw = read_bundle(folder, skills=["own/pdf"], workspace="start")
    assert unpack(raw) == {
        "skills/pdf/SKILL.md": BundleFile(HOW_TO.encode()),
        "skills/pdf/deep/er/a.txt": BundleFile(b"a"),
        "workspace/README.md": BundleFile(b"Read me."),
        "workspace/src/run": BundleFile(b"run", is_executable=True),
    }


def test_when_and_by_whom_a_file_was_written_does_not_matter(folder: Path) -> None:
    before = read_bundle(folder, workspace="start")
    os.utime(folder / "start" / "README.md", (1, 1))
    (folder / "start" / "README.md").chmod(0o600)
    assert read_bundle(folder, workspace="start") == before
    (folder / "start" / "README.md").write_text("Read me!")
    assert read_bundle(folder, workspace="start") != before


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("none", "none: No such file or directory"),
        ("../start", "must be a folder of the agents' folder"),
        ("/etc", "must be a folder of the agents' folder"),
        ("start/", "must be a folder of the agents' folder"),
        ("start/README.md", "start/README.md: not a folder, or a link"),
        ("own", "skills/own: has no SKILL.md"),
    ],
)
def test_a_folder_that_is_none_is_refused(folder: Path, path: str, told: str) -> None:
    with pytest.raises(BundleRefused) as refused:
        read_bundle(folder, skills=[path])
    assert told in str(refused.value)


def _link(place: Path) -> None:
    place.symlink_to("/etc/hostname")


def _link_to_a_folder(place: Path) -> None:
    place.symlink_to("/etc", target_is_directory=True)


def _pipe(place: Path) -> None:
    os.mkfifo(place)


@pytest.mark.parametrize("make", [_link, _link_to_a_folder, _pipe])
def test_links_and_pipes_are_refused(folder: Path, make: Callable[[Path], None]) -> None:
    make(folder / "start" / "odd")
    with pytest.raises(BundleRefused, match="start/odd: neither a plain file nor a folder"):
        read_bundle(folder, workspace="start")


def test_a_link_on_the_way_is_refused(folder: Path) -> None:
    (folder / "way").symlink_to(folder / "own", target_is_directory=True)
    with pytest.raises(BundleRefused, match="way/pdf: not a folder, or a link"):
        read_bundle(folder, skills=["way/pdf"])


def test_what_is_too_much_is_named_where_it_becomes_too_much(folder: Path) -> None:
    with (folder / "start" / "big").open("wb") as file:
        file.truncate(BUNDLE_MAX_BYTES + 1)
    with pytest.raises(BundleRefused, match="start/big: with it, more than 4 MiB"):
        read_bundle(folder, workspace="start")
    (folder / "start" / "big").unlink()
    for n in range(501):
        (folder / "start" / f"{n}").touch()
    with pytest.raises(BundleRefused, match="start: more than 500 files"):
        read_bundle(folder, workspace="start")


def test_two_skills_of_one_name_and_an_empty_folder_are_refused(folder: Path) -> None:
    written(folder / "other" / "pdf", **{"SKILL.md": "---\ndescription: D.\n---\nOtherwise."})
    with pytest.raises(BundleRefused, match="other/pdf: there are two of this name"):
        read_bundle(folder, skills=["own/pdf", "other/pdf"])
    (folder / "empty").mkdir()
    with pytest.raises(BundleRefused, match="empty: there is no file in it"):
        read_bundle(folder, workspace="empty")
