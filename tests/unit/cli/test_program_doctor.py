"""Whose container this is, by what process 1 was started as."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.cli.program_doctor import PROGRAM, running_program


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("/sbin/docker-init -- agcluster api", "api"),
        ("/opt/venv/bin/python -P /opt/venv/lib/agcluster/infra/launch.py worker.main", "worker"),
        ("tini -- /opt/venv/bin/agcluster gateway", "gateway"),
        ("/sbin/docker-init -- agcluster engine-proxy --listen /run/e.sock", "engine-proxy"),
        ("/sbin/init splash", None),
        ("bash", None),
        ("/usr/bin/python -m infra.cli.main up", None),
    ],
)
def test_the_program_of_a_container_is_known(
    tmp_path: Path, command: str, program: str | None
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
    assert running_program(tmp_path, {}) == program


def test_a_container_that_sees_the_hosts_processes_says_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "cmdline").write_bytes(b"/sbin/init\0splash\0")
    assert running_program(tmp_path, {PROGRAM: "engine-proxy"}) == "engine-proxy"


def test_where_nobody_can_tell_it_is_none(tmp_path: Path) -> None:
    assert running_program(tmp_path, {}) is None
