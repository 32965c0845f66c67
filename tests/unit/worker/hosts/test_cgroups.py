"""Limits as they are written to the kernel, of either version; the effect is tried in the contract
suite.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from worker.hosts.bubblewrap.cgroups import Cgroup, CgroupRoot
from worker.hosts.host import Limits

LIMITS = Limits(cpus=0.5, memory_mb=256, pids=64, tmp_mb=16)
V2_FILES = ("memory.max", "memory.swap.max", "pids.max", "cpu.max")


def _kernel(folder: Path, *files: str) -> None:
    """The files that a kernel would put into a new group."""
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()


def test_version_two_has_everything_in_one_group(tmp_path: Path) -> None:
    _kernel(tmp_path / "x", *V2_FILES)

    CgroupRoot((tmp_path,), 2).make("x", LIMITS)

    written = [(tmp_path / "x" / file).read_text() for file in V2_FILES]
    assert written == ["268435456", "0", "64", "50000 100000"]


def test_version_one_has_a_group_per_controller(tmp_path: Path) -> None:
    memory, pids, cpu = (tmp_path / name for name in ("memory", "pids", "cpu"))
    _kernel(memory / "x", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    _kernel(pids / "x", "pids.max")
    _kernel(cpu / "x", "cpu.cfs_period_us", "cpu.cfs_quota_us")

    CgroupRoot((memory, pids, cpu), 1).make("x", LIMITS)

    assert (memory / "x/memory.memsw.limit_in_bytes").read_text() == "268435456"
    assert (cpu / "x/cpu.cfs_quota_us").read_text() == "50000"


def test_what_a_start_had_is_taken_back(tmp_path: Path) -> None:
    _kernel(tmp_path / "x", *V2_FILES)
    root = CgroupRoot((tmp_path,), 2)
    root.make("x", replace(LIMITS, start_cpus=2.0))
    assert (tmp_path / "x/cpu.max").read_text() == "200000 100000"

    root.limit_cpus("x", LIMITS.cpus)
    root.limit_cpus("long gone", LIMITS.cpus)

    assert (tmp_path / "x/cpu.max").read_text() == "50000 100000"


def test_a_kernel_without_swap_accounting_is_fine(tmp_path: Path) -> None:
    _kernel(tmp_path / "x", *(file for file in V2_FILES if "swap" not in file))

    CgroupRoot((tmp_path,), 2).make("x", LIMITS)


def test_a_limit_that_cannot_be_set_is_an_error_and_leaves_no_group(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CgroupRoot((tmp_path,), 2).make("x", LIMITS)

    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("file"), ["memory.events", "memory.oom_control"])
@pytest.mark.parametrize("kills", [0, 2])
def test_a_kill_for_memory_is_seen(tmp_path: Path, file: str, kills: int) -> None:
    (tmp_path / file).write_text(f"under_oom 0\noom_kill {kills}\n")

    assert Cgroup((tmp_path,)).was_out_of_memory() is bool(kills)


def test_a_machine_without_writable_groups_has_none(tmp_path: Path) -> None:
    assert CgroupRoot.find(tmp_path) is None
    (tmp_path / "cgroup.controllers").write_text("memory pids cpu")
    assert CgroupRoot.find(tmp_path) is None
