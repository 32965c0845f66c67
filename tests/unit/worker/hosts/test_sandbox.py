"""bwrap's arguments, without running it."""

from __future__ import annotations

import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

import infra
from infra.wire.errors import NoIsolation
from infra.wire.ids import ConversationKey, Fence
from worker.hosts.bubblewrap.sandbox import Sandbox, compile_agent
from worker.hosts.host import ContainerSpec, Limits, SessionFolders

SPEC = ContainerSpec(
    ConversationKey("c" * 24),
    Fence(1),
    SessionFolders(Path("/data/s/c"), Path("/data/w/c")),
    Limits(cpus=1, memory_mb=256, pids=64, tmp_mb=16),
    egress=True,
)


def _arguments(*, as_root: bool) -> list[str]:
    return Sandbox(private=Path("/data"), as_root=as_root).arguments(SPEC, file_fds={})


@pytest.mark.parametrize("as_root", [True, False])
def test_every_namespace_is_new_and_the_environment_is_empty(as_root: bool) -> None:
    arguments = _arguments(as_root=as_root)

    for option in ("ipc", "pid", "net", "uts"):
        assert f"--unshare-{option}" in arguments
    assert "--clearenv" in arguments
    assert "--share-net" not in arguments
    assert "--die-with-parent" not in arguments, "a sandbox outlives its worker"


@pytest.mark.parametrize("as_root", [True, False])
def test_only_the_session_is_writable(as_root: bool) -> None:
    arguments = _arguments(as_root=as_root)
    writable = [arguments[i + 2] for i, word in enumerate(arguments) if word == "--bind"]

    assert sorted(writable) == ["/run/agcluster", "/workspace"]
    assert arguments[-2:] == ["--remount-ro", "/"]


def test_root_hands_over_to_the_agents_uid_without_any_power() -> None:
    program = Sandbox(private=Path("/data"), as_root=True).program()

    assert program[0].endswith("setpriv")
    assert {"--reuid=1000", "--clear-groups", "--bounding-set=-all", "--no-new-privs"} <= set(
        program
    )


def test_an_ordinary_user_is_mapped_to_the_agents_uid() -> None:
    arguments = _arguments(as_root=False)

    assert arguments[arguments.index("--uid") + 1] == "1000"
    assert "--disable-userns" in arguments


def test_the_agents_code_cannot_be_changed_from_the_workspace() -> None:
    program = Sandbox(private=Path("/data"), as_root=False).program()

    assert program[0] == sys.executable
    assert "I" in program[1], "isolated mode: no current folder, no PYTHON variables"


def test_data_inside_the_shown_python_is_refused() -> None:
    with pytest.raises(NoIsolation, match="AGCLUSTER_DATA_DIR"):
        Sandbox(private=Path(sys.prefix) / "data").refuse_exposure()


def test_data_elsewhere_is_fine() -> None:
    Sandbox(private=Path("/var/lib/agcluster")).refuse_exposure()


def test_the_agents_code_is_compiled_where_it_lies() -> None:
    """A sandbox mounts it read-only: what is not there is compiled again at each start."""
    code = Path(infra.__file__).parents[1] / "agent" / "main.py"
    compiled = Path(cache_from_source(str(code)))
    compiled.unlink(missing_ok=True)
    compile_agent()
    assert compiled.exists()
