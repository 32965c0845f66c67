"""Trees of an agent that exchanges folders and links while its host walks and removes them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from infra.wire.ids import ConversationKey, Fence
from infra.wire.socket_folder import LAUNCH_FILE
from tests.fakes.exchanger import Exchanger, acting, exchange_for_ever
from worker.hosts.folders.folders import AGENT_UID, Folders
from worker.hosts.folders.trees import HELD_MAX, remove_tree
from worker.hosts.folders.workspace import size_of

C = ConversationKey("c" * 24)
FENCE = Fence(1)
IS_ROOT = os.geteuid() == 0
AS_ROOT = pytest.mark.skipif(
    not IS_ROOT, reason="setfsuid(2) and setgroups(2) need root; CI is root, and fails on any skip"
)


class Victim:
    """A folder of the host's, outside the data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "below").mkdir(parents=True)
        for name in ("one", "two", "below/three"):
            (folder / name).write_text("the host's")
        folder.chmod(0o755)
        self._before = self._state()

    def is_whole(self) -> bool:
        return self._state() == self._before

    def _state(self) -> list[tuple[str, int]]:
        found = [self.folder, *sorted(self.folder.rglob("*"))]
        return [(str(path), stat.S_IMODE(path.lstat().st_mode)) for path in found]


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the agent's uid can come, too."""
    made = Path(tempfile.mkdtemp(prefix="agc-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def victim(place: Path) -> Victim:
    return Victim(place / "host")


def _planted(place: Path, victim: Victim) -> tuple[Folders, Exchanger]:
    """A workspace of three levels, with something to exchange on each."""
    folders = Folders(place / "data")
    workspace = folders.make(C, FENCE).workspace
    exchanger = Exchanger(workspace, victim.folder)
    for folder in (workspace / "a", workspace / "a" / "b", workspace / "c"):
        folder.mkdir(mode=0o700)
        (folder / "file").write_text("x")
        (folder / "one").write_text("x")
        exchanger.plant(folder)
    if IS_ROOT:
        for path in workspace.rglob("*"):
            os.chown(path, AGENT_UID, AGENT_UID, follow_symlinks=False)
    (workspace / "c").chmod(0)
    return folders, exchanger


def test_an_agent_that_exchanges_between_any_two_calls_gets_nothing_of_the_hosts_removed(
    place: Path, victim: Victim
) -> None:
    """A removal that named its folders by path had a folder outside emptied and its modes changed:
    between the look at a folder and its use the agent put a link there.
    """
    folders, exchanger = _planted(place, victim)
    with acting(exchanger):
        folders.drop_workspace(C, FENCE)

    assert victim.is_whole()
    assert not folders.of(C).workspace.exists()
    assert exchanger.calls

    folders.drop_trash()
    assert list((place / "data" / "w" / ".trash").iterdir()) == []


def test_nothing_below_an_agents_folder_is_named_by_a_path(place: Path, victim: Victim) -> None:
    folders, exchanger = _planted(place, victim)
    with acting(exchanger):
        size_of(folders.of(C).workspace)
        folders.drop_workspace(C, FENCE)

    ours = {str(place / "data" / kind) for kind in ("w", "f")} | {str(folders.of(C).workspace)}
    named = {path for _, path in exchanger.calls if "/" in path}
    assert {path for path in named if not path.startswith("/proc/self/fd/")} <= ours


def test_a_size_counts_nothing_of_the_hosts(place: Path, victim: Victim) -> None:
    (victim.folder / "large").write_bytes(b"x" * (4 << 20))
    folders, exchanger = _planted(place, victim)

    with acting(exchanger):
        assert size_of(folders.of(C).workspace) < 1 << 20


def test_a_tree_deeper_than_what_is_held_open_goes(tmp_path: Path) -> None:
    deep = tmp_path.joinpath("top", *("d" for _ in range(3 * HELD_MAX)))
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    above = os.open(tmp_path, os.O_RDONLY)

    assert remove_tree("top", above)
    os.close(above)

    assert list(tmp_path.iterdir()) == []


def test_what_resists_is_told(tmp_path: Path) -> None:
    (tmp_path / "top" / "file").parent.mkdir()
    (tmp_path / "top" / "file").write_text("x")
    above = os.open(tmp_path, os.O_RDONLY)

    assert not remove_tree("top", above, timeout_s=0)
    assert remove_tree("top", above)
    os.close(above)


@AS_ROOT
def test_root_removes_with_the_agents_rights_only(place: Path) -> None:
    """Whatever the walk may get wrong: a file that the agent could not remove stays."""
    folders = Folders(place / "data")
    workspace = folders.make(C, FENCE).workspace
    hosts = workspace / "hosts"
    hosts.mkdir(mode=0o755)
    (hosts / "file").write_text("root's")

    assert folders.drop_workspace(C, FENCE)

    [trash] = (place / "data" / "w" / ".trash").iterdir()
    assert (trash / "hosts" / "file").read_text() == "root's"
    assert os.stat(place / "data" / "w" / ".trash").st_mode & 0o777 == 0o700


@AS_ROOT
def test_root_removes_without_the_groups_that_it_is_in(place: Path) -> None:
    """What a group of root's may change, the agent may not."""
    folders, group = Folders(place / "data"), 4242
    workspace = folders.make(C, FENCE).workspace
    theirs = workspace / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("the group's")
    os.chown(theirs, 0, group)
    theirs.chmod(0o770)

    def remove() -> None:
        os.setgroups([group])
        assert folders.drop_workspace(C, FENCE)
        assert os.getgroups() == [group]

    removing = _as(None, remove)
    removing.join(30)
    assert removing.exitcode == 0
    [trash] = (place / "data" / "w" / ".trash").iterdir()
    assert (trash / "theirs" / "file").read_text() == "the group's"


@pytest.mark.parametrize("is_root", [True, False] if IS_ROOT else [False])
def test_an_agent_that_exchanges_as_fast_as_it_can_gets_nothing_of_the_hosts_removed(
    place: Path, victim: Victim, is_root: bool
) -> None:
    """As a process of its own, which lives while its files are removed."""
    data, uid = place / "data", AGENT_UID if IS_ROOT else os.getuid()
    data.mkdir()
    for folder in () if is_root else (data, victim.folder, victim.folder / "below"):
        os.chown(folder, uid, uid)
    folders, remover = Folders(data), None if is_root else uid
    workspace = folders.of(C).workspace
    _as(remover, lambda: folders.make(C, FENCE)).join(30)
    reading, writing = os.pipe()
    agent = _as(uid, lambda: exchange_for_ever(workspace, victim.folder, 60, ready=writing))
    try:
        assert os.read(reading, 1) == b"!"
        removing = _as(remover, lambda: folders.drop_workspace(C, FENCE))
        removing.join(30)
        assert removing.exitcode == 0
    finally:
        agent.kill()
        agent.join()
        os.close(reading)
        os.close(writing)

    assert victim.is_whole()
    assert not workspace.exists()


def _as(uid: int | None, act: Callable[[], object]) -> ForkProcess:
    """A process of that user's, started."""

    def run() -> None:
        if uid is not None and IS_ROOT:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        act()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


@AS_ROOT
def test_nothing_is_removed_with_the_rights_of_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells no failure of a change of these ids."""

    class Refusing:
        def setfsuid(self, _: int) -> int:
            return 0

        setfsgid = setfsuid

    (tmp_path / "top" / "file").parent.mkdir()
    (tmp_path / "top" / "file").write_text("x")
    os.chown(tmp_path / "top", AGENT_UID, AGENT_UID)
    monkeypatch.setattr("ctypes.CDLL", lambda _: Refusing())
    above = os.open(tmp_path, os.O_RDONLY)

    assert not remove_tree("top", above)
    os.close(above)

    assert (tmp_path / "top" / "file").exists()


@pytest.mark.parametrize("plant", [Path.mkdir, Path.touch, "link"])
@pytest.mark.parametrize("launch", [b"{}", None])
def test_what_an_agent_left_in_place_of_its_launch_file_leads_nowhere(
    place: Path, victim: Victim, plant: Callable[[Path], None] | str, launch: bytes | None
) -> None:
    folders = Folders(place / "data")
    left = folders.make(C, FENCE, launch=b"before").sockets / LAUNCH_FILE
    assert left.read_bytes() == b"before"
    left.unlink()
    if isinstance(plant, str):
        left.symlink_to(victim.folder / "one")
    else:
        plant(left)

    folders.make(C, FENCE, launch=launch)

    assert victim.is_whole()
    if plant is Path.mkdir:
        assert left.is_dir()  # Then there is none, and nothing fails.
    elif launch is None:
        assert not os.path.lexists(left)
    else:
        assert not left.is_symlink()
        assert left.read_bytes() == launch
        assert stat.S_IMODE(left.stat().st_mode) == 0o600
