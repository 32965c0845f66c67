"""Installed agents are checked when they are installed, and each time that they are read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from infra.profiles.folder import ProfileFolder
from infra.profiles.installed import InstalledFolder
from infra.profiles.places import ProfileRefused
from infra.releases.keys import TrustedPublishers
from infra.releases.refused import ReleaseRefused
from tests.fakes.releases import PROFILE, installed_in, policy, release

FILES = {"skills/a/SKILL.md": b"how to"}


def only_fault(folder: InstalledFolder) -> str:
    read = folder.read()
    assert not read.agents
    [fault] = read.faults
    return fault


def test_an_agent_is_installed_updated_and_uninstalled(tmp_path: Path) -> None:
    folder = installed_in(tmp_path)
    folder.install("mine", release(files=FILES), tenants=("0" * 20,))
    first = folder.read().agents["mine"]
    assert (first.mark.name, first.mark.version) == ("acme/reviewer", "1.0.0")
    assert first.profile.description == "Reads patches."
    assert first.profile.tenants == ("0" * 20,)
    folder.install("mine", release(PROFILE.replace("Grep", "Glob"), version="1.1.0"))
    assert folder.read().agents["mine"].profile.tools == ("Read", "Glob")
    assert len([path for path in (tmp_path / "installed/mine").iterdir() if path.is_dir()]) == 1
    assert folder.uninstall("mine")
    assert not folder.read().agents
    assert not folder.uninstall("mine")


@pytest.mark.parametrize(
    ("again", "fault"),
    [
        (release(version="1.1.9"), "1.2.0 is installed, and 1.1.9 is older"),
        (release(version="1.2.0-rc.1"), "is older"),
        (release(PROFILE + "max_turns: 3\n", version="1.2.0"), "another release is installed"),
        (release(name="acme/other", version="9.0.0"), "is installed under this name"),
    ],
)
def test_nothing_older_and_nothing_else_takes_its_place(
    tmp_path: Path, again: object, fault: str
) -> None:
    folder = installed_in(tmp_path)
    folder.install("mine", release(version="1.2.0"))
    with pytest.raises(ReleaseRefused, match=fault):
        folder.install("mine", again)  # type: ignore[arg-type]
    assert folder.read().agents["mine"].mark.version == "1.2.0"


def place(folder: Path) -> Path:
    [found] = (path for path in (folder / "installed/mine").iterdir() if path.is_dir())
    return found


def test_what_is_edited_later_is_left_out(tmp_path: Path) -> None:
    folder = installed_in(tmp_path)
    folder.install("mine", release(files=FILES))
    there = place(tmp_path)
    profile, skill = there / "files/agent.yaml", there / "files/skills/a/SKILL.md"
    profile.write_text(PROFILE.replace("Grep", "Bash"))
    assert "agent.yaml is not the file that was signed" in only_fault(folder)
    profile.write_text(PROFILE)
    skill.unlink()
    assert "was added or removed" in only_fault(folder)
    skill.symlink_to("/etc/passwd")
    assert "neither a file nor a folder" in only_fault(folder)
    skill.unlink()
    skill.write_bytes(b"how to")
    (there / "files/other.yaml").write_text("tools: [Bash]\n")
    assert "added" in only_fault(folder)
    (there / "files/other.yaml").unlink()
    assert folder.read().agents
    mark = tmp_path / "installed/mine/installed.json"
    mark.write_text(mark.read_text().replace("1.0.0", "9.0.0"))
    assert "not the release that was installed" in only_fault(folder)


def test_an_older_release_put_in_its_place_by_hand_is_left_out(tmp_path: Path) -> None:
    folder = installed_in(tmp_path)
    folder.install("mine", release(version="2.0.0"))
    (place(tmp_path) / "release.json").write_bytes(release(version="1.0.0").header)
    assert "not the release that was installed" in only_fault(folder)


def test_a_publisher_and_a_right_that_are_taken_back_take_the_agent_with_them(
    tmp_path: Path,
) -> None:
    installed_in(tmp_path).install("mine", release())
    without = InstalledFolder(tmp_path, publishers=TrustedPublishers({}), policy=policy())
    assert "not a publisher that this deployment trusts" in only_fault(without)
    assert "tools: Grep not allowed" in only_fault(
        installed_in(tmp_path, installed_agents_tools="Read")
    )


LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    "profile",
    [
        LAUGHS,
        f"description: {'x' * 600_000}",
        "[" * 5000,
        "tools: !!python/object/apply:os.system [ls]\n",
        "description: a\ndescription: b\n",
        "extends: ../../secret\n",
        "system_prompt: {file: ../../../../etc/passwd}\n",
        "power: unlimited\n",
        "description: \xff\n",
    ],
    ids=["aliases", "huge", "deep", "object", "twice", "extends", "file", "unknown", "latin"],
)
def test_a_hostile_profile_is_refused_and_nothing_of_it_stays(tmp_path: Path, profile: str) -> None:
    folder = installed_in(tmp_path)
    made = release(profile)
    if "\xff" in profile:
        profile_bytes = profile.encode("latin-1")
        made = release(files={"agent.yaml": profile_bytes})
    with pytest.raises((ReleaseRefused, ProfileRefused)):
        folder.install("mine", made)
    assert not list((tmp_path / "installed").glob("*"))


def test_replicas_take_installed_agents_and_lose_those_that_do_not_pass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    installed_in(tmp_path).install("mine", release())
    (tmp_path / "own.yaml").write_text("description: Of this folder.\n")
    replica = ProfileFolder(tmp_path, installed=installed_in(tmp_path))
    assert replica.look()
    assert set(replica.profiles) == {"own", "mine"}
    assert not replica.look()
    profile = place(tmp_path) / "files/agent.yaml"
    before = profile.stat()
    profile.write_bytes(profile.read_bytes().replace(b"Grep", b"Bash"))
    os.utime(profile, ns=(before.st_atime_ns, before.st_mtime_ns))
    with caplog.at_level(logging.ERROR):
        assert replica.look()
    assert set(replica.profiles) == {"own"}
    assert "not the file that was signed" in caplog.text


def test_an_agent_of_the_folder_comes_before_an_installed_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    installed_in(tmp_path).install("mine", release())
    (tmp_path / "mine.yaml").write_text("description: Of this folder.\n")
    replica = ProfileFolder(tmp_path, installed=installed_in(tmp_path))
    with caplog.at_level(logging.ERROR):
        assert replica.look()
    assert replica.profiles["mine"].description == "Of this folder."
    assert "there is an agent of this name" in caplog.text
