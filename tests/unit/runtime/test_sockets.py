"""Sockets in folders where somebody else may put things."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.runtime.sockets import SocketRefused, check_folder, listen_at
from worker.gateway.control import GatewayRunsAlready, claim_control_socket


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="agc-sock-"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_socket_has_its_mode_whatever_the_umask(folder: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        bound = listen_at(folder / "x.sock", mode=mode)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat(bound.path).st_mode) == mode
    bound.close()
    assert not bound.path.exists()


def test_a_link_in_the_way_is_replaced_and_its_target_untouched(folder: Path) -> None:
    target = folder / "target"
    target.write_text("precious")
    target.chmod(0o600)
    (folder / "x.sock").symlink_to(target)
    bound = listen_at(folder / "x.sock", mode=0o666)
    assert stat.S_ISSOCK(os.lstat(folder / "x.sock").st_mode)
    assert target.read_text() == "precious"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    bound.close()


def test_a_folder_in_the_way_is_refused(folder: Path) -> None:
    (folder / "x.sock").mkdir()
    with pytest.raises(SocketRefused):
        listen_at(folder / "x.sock", mode=0o666)


def test_a_file_that_took_the_sockets_place_stays(folder: Path) -> None:
    bound = listen_at(folder / "x.sock", mode=0o666)
    bound.path.unlink()
    bound.path.write_text("another's")
    assert not bound.is_in_place
    bound.close()
    assert bound.path.read_text() == "another's"


def test_a_path_too_long_for_a_socket_is_refused_with_the_way_out(folder: Path) -> None:
    with pytest.raises(SocketRefused, match="data_dir"):
        listen_at(folder / ("x" * 100), mode=0o666)


def test_a_session_folder_lies_inside_the_data_folder(folder: Path) -> None:
    inside = folder / "data"
    (inside / "s" / "c").mkdir(parents=True)
    (inside / "file").write_text("")
    (inside / "link").symlink_to(folder)
    check_folder(inside / "s" / "c", inside=inside)
    for wrong in (folder, inside / "gone", inside / "file", inside / "link", Path("s/c")):
        with pytest.raises(SocketRefused):
            check_folder(wrong, inside=inside)
    with pytest.raises(SocketRefused):
        check_folder(inside / ".." / "data" / "s", inside=inside)


def test_a_dead_gateways_control_socket_is_replaced(folder: Path) -> None:
    path = folder / "gateway" / "control.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    bound = claim_control_socket(path)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    bound.close()


def test_a_living_gateways_control_socket_is_respected(folder: Path) -> None:
    path = folder / "gateway" / "control.sock"
    living = claim_control_socket(path)
    with pytest.raises(GatewayRunsAlready):
        claim_control_socket(path)
    assert living.is_in_place
    living.close()
