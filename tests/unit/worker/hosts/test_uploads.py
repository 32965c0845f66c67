"""Files of callers in an agent's workspace, whatever the agent has put there before."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.wire.errors import LeaseLost
from infra.wire.files.names import NAME_MAX_BYTES, names_for, safe_name
from infra.wire.ids import ConversationKey, Fence
from tests.fakes.exchanger import Exchanger, acting
from worker.hosts.folders.folders import Folders, agent_uid
from worker.hosts.folders.uploads import UploadFolder

C = ConversationKey("c" * 24)
FENCE = Fence(3)
NAME = "report.docx"


@pytest.fixture(params=["no name", "a hidden name"])
def temporary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a file is kept until it is whole."""
    if request.param == "a hidden name":
        real = os.open

        def refusing(path: str, flags: int, *args: int, **kwargs: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(95, "not supported")
            return real(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", refusing)
    name: str = request.param
    return name


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path / "data")
    folders.make(C, FENCE)
    return folders


@pytest.fixture
def workspace(folders: Folders) -> Path:
    return folders.of(C).workspace


@pytest.fixture
def uploads(folders: Folders) -> Iterator[UploadFolder]:
    uploads = UploadFolder(folders, C, FENCE)
    yield uploads
    uploads.close()


def agents_folder(place: Path) -> None:
    place.mkdir()
    os.chown(place, agent_uid(), -1)


def put(uploads: UploadFolder, content: bytes, name: str = NAME) -> str:
    digest = hashlib.sha256(content).hexdigest()
    if found := uploads.find(name, digest=digest, size=len(content)):
        return found
    upload = uploads.begin()
    try:
        upload.write(content)
        return uploads.settle(upload, name, digest=digest, size=len(content))
    finally:
        uploads.drop(upload)


def test_a_file_arrives_under_its_name_and_is_the_agents(
    temporary: str, uploads: UploadFolder, workspace: Path
) -> None:
    path = put(uploads, b"one")
    assert path == f"uploads/{NAME}"
    found = (workspace / path).lstat()
    assert (workspace / path).read_bytes() == b"one"
    assert found.st_uid == agent_uid()
    assert stat.S_IMODE(found.st_mode) == 0o644
    assert (workspace / "uploads").lstat().st_uid == agent_uid()
    assert os.listdir(workspace / "uploads") == [NAME]


def test_the_same_content_is_the_same_file_and_another_never_takes_its_place(
    temporary: str, uploads: UploadFolder, workspace: Path
) -> None:
    first = put(uploads, b"one")
    other = put(uploads, b"two")
    assert put(uploads, b"one") == first
    assert put(uploads, b"two") == other != first
    assert (workspace / first).read_bytes() == b"one"
    assert (workspace / other).read_bytes() == b"two"
    # What the agent made of it is not written over.
    (workspace / first).write_bytes(b"changed")
    again = put(uploads, b"one")
    assert (workspace / first).read_bytes() == b"changed"
    assert (workspace / again).read_bytes() == b"one"
    assert len(os.listdir(workspace / "uploads")) == 3


def test_a_file_that_did_not_arrive_leaves_nothing(
    temporary: str, uploads: UploadFolder, workspace: Path
) -> None:
    upload = uploads.begin()
    upload.write(b"half of")
    uploads.drop(upload)
    assert os.listdir(workspace / "uploads") == []


def _link_out(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def _link_to_file(place: Path, victim: Path) -> None:
    place.symlink_to(victim / "secret")


def _hard_link(place: Path, victim: Path) -> None:
    os.link(victim / "secret", place)


def _pipe(place: Path, victim: Path) -> None:
    os.mkfifo(place)


def _link_to_nothing(place: Path, victim: Path) -> None:
    place.symlink_to(victim / "made-by-us")


def _folder(place: Path, victim: Path) -> None:
    agents_folder(place)


def _closed_folder(place: Path, victim: Path) -> None:
    agents_folder(place)
    place.chmod(0)


ATTACKS: list[Callable[[Path, Path], None]] = [
    _link_out, _link_to_file, _hard_link, _pipe, _link_to_nothing, _folder, _closed_folder,
]  # fmt: skip


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    victim = tmp_path / "host"
    victim.mkdir()
    (victim / "secret").write_bytes(b"sec")
    yield victim
    assert os.listdir(victim) == ["secret"]
    assert (victim / "secret").read_bytes() == b"sec"


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_under_the_name_of_a_file_leads_out_or_holds_us_up(
    attack: Callable[[Path, Path], None], uploads: UploadFolder, workspace: Path, victim: Path
) -> None:
    agents_folder(workspace / "uploads")
    attack(workspace / "uploads" / NAME, victim)
    path = put(uploads, b"one")
    assert (workspace / path).read_bytes() == b"one"
    assert path != f"uploads/{NAME}"


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_the_place_of_the_folder_leads_out_or_holds_us_up(
    attack: Callable[[Path, Path], None], uploads: UploadFolder, workspace: Path, victim: Path
) -> None:
    attack(workspace / "uploads", victim)
    path = put(uploads, b"one")
    assert (workspace / path).read_bytes() == b"one"
    assert not (workspace / path).is_symlink()


def test_all_names_taken_is_an_error_and_not_a_search_without_end(
    uploads: UploadFolder, workspace: Path
) -> None:
    agents_folder(workspace / "uploads")
    for name in names_for(NAME, hashlib.sha256(b"one").hexdigest()):
        os.mkfifo(workspace / "uploads" / name)
    with pytest.raises(FileExistsError):
        put(uploads, b"one")


def test_a_folder_that_is_exchanged_meanwhile_is_still_the_agents(
    uploads: UploadFolder, workspace: Path, victim: Path
) -> None:
    upload = uploads.begin()
    upload.write(b"one")
    (workspace / "uploads").rename(workspace / "moved")
    (workspace / "uploads").symlink_to(victim)
    uploads.settle(upload, NAME, digest="0" * 64, size=3)
    uploads.drop(upload)
    assert (workspace / "moved" / NAME).read_bytes() == b"one"


def test_an_agent_that_exchanges_between_any_two_calls_gets_nothing_written_outside(
    folders: Folders, workspace: Path, victim: Path
) -> None:
    """Though everybody may write there."""
    victim.chmod(0o777)
    agents_folder(workspace / "uploads")
    agents_folder(workspace / "uploads" / "b.bin")
    exchanger = Exchanger(workspace, victim)
    exchanger.plant(workspace / "uploads")
    exchanger.plant(workspace / "uploads" / "b.bin")
    uploads = UploadFolder(folders, C, FENCE)
    arrived = 0
    with acting(exchanger):
        for n in range(20):
            with contextlib.suppress(OSError):
                put(uploads, b"content %d" % n, name=f"{'ab'[n % 2]}.bin")
                arrived += 1
        uploads.close()
    assert exchanger.calls
    assert arrived
    written = [path for path in workspace.rglob("*.bin") if path.is_file()]
    assert len(written) >= arrived


@pytest.mark.parametrize("temporary", ["a hidden name"], indirect=True)
def test_a_hidden_name_that_is_exchanged_is_given_no_other(
    temporary: str, uploads: UploadFolder, workspace: Path, victim: Path
) -> None:
    upload = uploads.begin()
    upload.write(b"one")
    (hidden,) = (workspace / "uploads").iterdir()
    hidden.unlink()
    hidden.symlink_to(victim / "secret")
    os.chown(hidden, agent_uid(), -1, follow_symlinks=False)
    with pytest.raises(OSError, match="replaced"):
        uploads.settle(upload, NAME, digest="0" * 64, size=3)
    uploads.close()


def test_after_a_newer_owner_nothing_is_written(
    folders: Folders, uploads: UploadFolder, workspace: Path
) -> None:
    upload = uploads.begin()
    folders.take(C, Fence(FENCE + 1))
    with pytest.raises(LeaseLost):
        uploads.settle(upload, NAME, digest="0" * 64, size=0)
    uploads.drop(upload)
    assert os.listdir(workspace / "uploads") == []


NAMES = [
    ("report.docx", "report.docx"),
    ("../../etc/passwd", "passwd"),
    ("..\\..\\boot.ini", "boot.ini"),
    ("/", "application.bin"),
    ("..", "application.bin"),
    (None, "application.bin"),
    ("", "application.bin"),
    ("\0", "application.bin"),
    ("...", "application.bin"),
    ("---", "application.bin"),
    (".bashrc", "bashrc"),
    ("-rf", "rf"),
    ("a\nb\x1b[31m.txt", "ab[31m.txt"),
    ("a\u202etxt.exe", "atxt.exe"),
    ("Größe – Übersicht 2.xlsx", "Größe _ Übersicht 2.xlsx"),
    ("Gro\u0308ße.txt", "Größe.txt"),
    ("表 紙.pdf", "表 紙.pdf"),
    ("تقرير.pdf", "تقرير.pdf"),
    ("🎉.png", "🎉.png"),
    ("a 🎉.png", "a 🎉.png"),
    ("$(rm -rf ~);`x`'\"|&.sh", "_(rm -rf ~)__x_____.sh"),
    ("con.txt", "_con.txt"),
    ("COM1", "_COM1"),
    ("a. . .", "a"),
    ("\udcff.txt", "txt"),
]


@pytest.mark.parametrize(("said", "name"), NAMES)
def test_a_name_is_one_safe_component(said: str | None, name: str) -> None:
    assert safe_name(said, "application/octet-stream") == name


@pytest.mark.parametrize("said", ["x" * 5000, "表" * 500 + ".pdf", "a." + "b" * 5000, "🎉a" * 200])
def test_a_long_name_is_cut_and_its_ending_stays(said: str) -> None:
    name = safe_name(said, "application/pdf")
    assert len(name.encode()) <= NAME_MAX_BYTES
    assert said[:10].startswith(name[:10])
    assert not said.endswith(".pdf") or name.endswith(".pdf")
    assert all(len(one.encode()) <= 255 for one in names_for(name, "0" * 64))


def test_another_folder_has_its_own_name(folders: Folders, workspace: Path) -> None:
    (workspace / "from-helper").symlink_to("/tmp")
    other = UploadFolder(folders, C, FENCE, name="from-helper")
    with contextlib.closing(other):
        upload = other.begin()
        upload.write(b"x")
        digest = hashlib.sha256(b"x").hexdigest()
        assert other.settle(upload, NAME, digest=digest, size=1) == f"from-helper-2/{NAME}"
    assert not (workspace / "uploads").exists()
