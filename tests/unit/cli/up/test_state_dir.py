"""The state folder: one instance, one secret, paths that sockets can have."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infra.cli.up.state_dir import DATA_DIR_MAX_BYTES, InstanceLock, StateDir, StateDirRefused


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory) -> StateDir:
    made = StateDir(tmp_path_factory.mktemp("s"))
    made.make()
    return made


def test_the_secret_is_made_once_and_is_its_users_alone(state: StateDir) -> None:
    first = state.secret()
    assert len(first) == 64
    assert state.secret() == first
    assert stat.S_IMODE(state.secret_file.stat().st_mode) == 0o600


def test_a_secret_that_others_could_read_is_closed_again(state: StateDir) -> None:
    state.secret()
    state.secret_file.chmod(0o644)
    state.secret()
    assert stat.S_IMODE(state.secret_file.stat().st_mode) == 0o600


def test_a_second_instance_is_refused_with_the_first_ones_address(state: StateDir) -> None:
    lock = InstanceLock(state)
    lock.describe("http://127.0.0.1:8000")
    with pytest.raises(StateDirRefused, match=r"http://127\.0\.0\.1:8000"):
        InstanceLock(state)
    assert "8000" in (state.holder() or "")
    lock.close()
    assert state.holder() is None
    InstanceLock(state).close()


def test_the_lock_lasts_as_long_as_whoever_inherited_it(state: StateDir) -> None:
    lock = InstanceLock(state)
    heir = subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fd,)
    )
    lock.close()
    with pytest.raises(StateDirRefused):
        InstanceLock(state)
    heir.communicate(b"\n", timeout=30)
    InstanceLock(state).close()


def test_a_folder_too_long_for_sockets_is_refused_with_what_to_do() -> None:
    state = StateDir(Path("/tmp") / ("x" * DATA_DIR_MAX_BYTES))
    with pytest.raises(StateDirRefused, match="AGCLUSTER_DATA_DIR"):
        state.make()
    assert not state.root.exists()


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "AGCLUSTER_DATA_DIR" in (StateDir(tmp_path / "file" / "below").fault() or "")
