"""What is written down about sandboxes, and when it is not believed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from infra.wire.ids import ConversationKey, Fence
from worker.hosts.bubblewrap.records import (
    LOG_MAX_BYTES,
    Process,
    Processes,
    SandboxRecord,
    SandboxRecords,
    boot_id,
)
from worker.hosts.host import ContainerId


@pytest.fixture
def records(tmp_path: Path) -> SandboxRecords:
    (tmp_path / "b").mkdir()
    return SandboxRecords(tmp_path, cluster="one", host="host-1")


def _record(id: str = "a-1") -> SandboxRecord:
    return SandboxRecord(
        ContainerId(id),
        ConversationKey("a"),
        Fence(3),
        "one",
        "host-1",
        1_700_000_000_000,
        boot_id(),
    )


def _ourselves() -> Process:
    found = Process.of(os.getpid())
    assert found is not None
    return found


def test_a_record_is_read_back(records: SandboxRecords) -> None:
    records.make(_record())

    assert records.all() == [_record()]


def test_records_of_another_cluster_or_host_are_not_ours(records: SandboxRecords) -> None:
    records.make(replace(_record("a-1"), cluster="two"))
    records.make(replace(_record("a-2"), host="host-2"))

    assert records.all() == []


def test_a_broken_record_is_passed_over(records: SandboxRecords, tmp_path: Path) -> None:
    records.make(_record())
    (tmp_path / "b" / "torn").mkdir()
    (tmp_path / "b" / "torn" / "record.json").write_text('{"id": ')

    assert records.all() == [_record()]


def test_a_process_is_known_by_its_start_not_by_its_pid() -> None:
    ours = _ourselves()

    assert ours.is_alive()
    assert not replace(ours, started_ticks=ours.started_ticks - 1).is_alive()
    assert replace(ours, started_ticks=ours.started_ticks - 1).open() is None


def test_processes_noted_before_a_reboot_are_gone(records: SandboxRecords) -> None:
    old = replace(_record(), boot="another-boot")
    records.make(old)
    records.note(old.id, Processes(_ourselves(), None))

    assert records.processes(old) is None
    assert records.processes(replace(old, boot=boot_id())) is not None


def test_the_exit_code_is_the_one_bwrap_wrote(records: SandboxRecords) -> None:
    folder = records.make(_record())
    assert records.exit_code(ContainerId("a-1")) is None

    (folder / "status").write_text('{ "child-pid": 7 }\n{ "exit-code": 3 }\n')

    assert records.exit_code(ContainerId("a-1")) == 3


def test_a_log_that_grows_too_long_is_cut(records: SandboxRecords) -> None:
    log = records.make(_record()) / "log"
    log.write_bytes(b"x" * (LOG_MAX_BYTES + 1))

    records.trim_log(ContainerId("a-1"))

    assert log.stat().st_size == 0


def test_what_a_dead_worker_left_without_a_record_goes_when_it_is_old(
    records: SandboxRecords, tmp_path: Path
) -> None:
    old, new, foreign = ("a" * 24 + "-00000001", "a" * 24 + "-00000002", "notes")
    for name in (old, new, foreign):
        (tmp_path / "b" / name).mkdir(parents=True)
        (tmp_path / "b" / name / "log").write_text("")
    kept = records.make(replace(_record("b-1"), id=ContainerId("b" * 24 + "-00000001")))
    for folder in (tmp_path / "b" / old, tmp_path / "b" / foreign, kept):
        os.utime(folder, (1, 1))

    records.drop_remains()

    assert {path.name for path in (tmp_path / "b").iterdir()} == {new, foreign, kept.name}
