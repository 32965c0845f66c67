"""Bundles on a host: unpacked once, as they were packed, and never half."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from infra.wire.agents.bundle import BundleFile, BundleRefused, bundle_digest, pack
from infra.wire.errors import LeaseLost
from infra.wire.ids import ConversationKey, Fence
from worker.hosts.folders.folders import Folders, agent_uid

C = ConversationKey("c" * 24)
RAW = pack(
    {
        "skills/pdf/SKILL.md": BundleFile(b"---\ndescription: D.\n---\nHow to."),
        "workspace/src/run": BundleFile(b"run", is_executable=True),
        "workspace/README": BundleFile(b"read"),
    }
)
DIGEST = bundle_digest(RAW)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def files_in(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_bundle_is_a_plugin_and_the_files_of_a_workspace(folders: Folders) -> None:
    assert not folders.bundles.use(DIGEST)
    old = os.umask(0o077)
    try:
        folders.bundles.put(DIGEST, RAW)
        folders.bundles.put(DIGEST, RAW)
    finally:
        os.umask(old)
    assert folders.bundles.use(DIGEST)
    folder = folders.bundles.folder(DIGEST)
    assert files_in(folder) == {
        "plugin/.claude-plugin/plugin.json": '{"name": "agent"}',
        "plugin/skills/pdf/SKILL.md": "---\ndescription: D.\n---\nHow to.",
        "workspace/README": "read",
        "workspace/src/run": "run",
    }
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes == {0o755, 0o644}
    assert {path.stat().st_uid for path in folder.rglob("*")} == {agent_uid()}
    assert os.listdir(folder.parent) == [DIGEST], "nothing of the unpacking is left"


def test_what_is_not_the_archive_of_the_digest_leaves_nothing(folders: Folders) -> None:
    hostile = RAW.replace(b"workspace/README", b"../../../etc/foo")
    for digest, raw in ((DIGEST, RAW + b"\0"), ("0" * 64, RAW), (bundle_digest(hostile), hostile)):
        with pytest.raises(BundleRefused):
            folders.bundles.put(digest, raw)
        assert not folders.bundles.use(digest)


def test_an_empty_workspace_is_furnished_and_no_other(folders: Folders) -> None:
    folders.bundles.put(DIGEST, RAW)
    files = folders.bundles.files(DIGEST)
    assert files is not None
    workspace = folders.make(C, Fence(1)).workspace
    assert folders.furnish(C, Fence(1), files)
    assert files_in(workspace) == {"README": "read", "src/run": "run"}
    assert {path.stat().st_uid for path in (workspace, *workspace.rglob("*"))} == {agent_uid()}
    assert stat.S_IMODE(workspace.stat().st_mode) == 0o700
    (workspace / "README").write_text("mine")
    (workspace / "src" / "run").unlink()
    assert not folders.furnish(C, Fence(1), files)
    assert files_in(workspace) == {"README": "mine"}
    assert os.listdir(workspace.parent / ".trash") == []


def test_a_stale_owner_furnishes_nothing(folders: Folders) -> None:
    folders.bundles.put(DIGEST, RAW)
    files = folders.bundles.files(DIGEST)
    assert files is not None
    workspace = folders.make(C, Fence(2)).workspace
    with pytest.raises(LeaseLost):
        folders.furnish(C, Fence(1), files)
    assert files_in(workspace) == {}


def test_a_workspace_that_is_a_link_is_not_followed(folders: Folders, tmp_path: Path) -> None:
    folders.bundles.put(DIGEST, RAW)
    files = folders.bundles.files(DIGEST)
    assert files is not None
    workspace = folders.make(C, Fence(1)).workspace
    workspace.rmdir()
    (tmp_path / "elsewhere").mkdir()
    workspace.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        folders.furnish(C, Fence(1), files)
    assert files_in(tmp_path / "elsewhere") == {}


def test_what_no_container_has_goes_after_a_while(folders: Folders) -> None:
    other = pack({"workspace/x": BundleFile(b"")})
    for raw in (RAW, other):
        folders.bundles.put(bundle_digest(raw), raw)
    home = folders.bundles.folder(DIGEST).parent
    (home / ".new-0123456789abcdef").mkdir()
    (home / "not-ours").mkdir()
    for path in home.iterdir():
        os.utime(path, (1, 1))
    folders.bundles.drop_unused({DIGEST}, older_than_s=60)
    assert sorted(os.listdir(home)) == sorted([DIGEST, "not-ours"])
    assert folders.bundles.use(DIGEST)
    folders.bundles.drop_unused(set(), older_than_s=60)
    assert folders.bundles.use(DIGEST), "it was used just now"
