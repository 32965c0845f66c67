"""`agcluster up` as its user meets it: a real process with a real Redis and bubblewrap."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from infra.cli.up import guard
from infra.cli.up.programs import python_command
from tests.integration.cli.up_process import (
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Start,
    ask,
    descendants,
    wait,
)
from tests.parts import need

pytestmark = [pytest.mark.bwrap, pytest.mark.redis, pytest.mark.timeout(240)]


PROGRAMS = ("worker.main", "worker.gateway.main", "api.main")


def runs(pid: int, module: str) -> bool:
    """Whether the process is this program."""
    return module.encode() in command_of(pid).split(b"\0")


def command_of(pid: int) -> bytes:
    """Its command line; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def sockets(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_socket()]


@pytest.mark.sdk
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_an_answer_a_signal_stops_everything(start: Start, number: int) -> None:
    up = start("--demo")
    up.wait_ready()
    answer = ask(up, "What can you do?")
    assert answer.status_code == 200, up.said()
    running = descendants(up.process.pid)
    assert sockets(up.folder)

    begun = time.monotonic()
    assert up.stop(number) == 0, up.said()
    assert time.monotonic() - begun < 20
    assert "nothing left behind" in up.said()
    assert [pid for pid in running if guard.is_alive(pid)] == []
    assert sockets(up.folder) == []
    assert "Traceback" not in up.said()


@pytest.mark.sdk
def test_nothing_outlives_an_up_that_was_killed(start: Start) -> None:
    up = start("--demo")
    up.wait_ready()
    assert ask(up, "What can you do?").status_code == 200, up.said()
    running = descendants(up.process.pid)

    up.stop(signal.SIGKILL)
    wait("all to be gone", lambda: not any(map(guard.is_alive, running)), STOP_TIMEOUT_S)
    assert sockets(up.folder) == []

    again = start("--demo", AGCLUSTER_PORT=up.url.rpartition(":")[2])
    again.wait_ready()
    assert again.stop(signal.SIGINT) == 0


@pytest.mark.sdk
@pytest.mark.parametrize("trouble", ["worker killed first", "all stand still", "told to end"])
def test_nothing_outlives_a_killed_up_that_could_not_tidy(start: Start, trouble: str) -> None:
    """Agents lead sessions of their own and outlive their worker on purpose. One without time to
    stop them, on a machine with a load of a hundred, was killed and left thirty of them.

    Told to end, `up` says itself that nothing is left, and keeps its word.
    """
    up = start("--demo")
    up.wait_ready()
    assert ask(up, "What can you do?").status_code == 200, up.said()
    running = descendants(up.process.pid)
    # The worker first: whatever it could do about its agents, it will not.
    named = {pid: name for name in PROGRAMS for pid in running if runs(pid, name)}
    for pid, name in named.items():
        if trouble != "worker killed first":
            os.kill(pid, signal.SIGSTOP)
        elif name == "worker.main":
            os.kill(pid, signal.SIGKILL)
    is_told = trouble == "told to end"
    agents = [pid for pid in running if b"agent.main" in command_of(pid)]
    assert agents, up.said()
    for pid in agents if is_told else []:
        os.kill(pid, signal.SIGSTOP)
    code = up.stop(signal.SIGTERM if is_told else signal.SIGKILL)
    if is_told:
        assert code == 0, up.said()
        assert "nothing left behind" in up.said()
        assert [pid for pid in running if guard.is_alive(pid)] == []
    wait("all to be gone", lambda: not any(map(guard.is_alive, running)), STOP_TIMEOUT_S)


def test_a_second_up_on_the_same_folder_is_refused(start: Start) -> None:
    first = start("--demo")
    first.wait_ready()
    second = start("--demo")
    assert second.process.wait(START_TIMEOUT_S) == 1
    assert first.url in second.said()
    assert httpx.get(f"{first.url}/health/ready", timeout=10).status_code == 200
    assert first.stop(signal.SIGINT) == 0


def test_a_worker_that_dies_is_started_again(start: Start) -> None:
    up = start("--demo")
    up.wait_ready()
    worker = next(pid for pid in up.pids if runs(pid, "worker.main"))
    os.kill(worker, signal.SIGKILL)
    up.wait_said("worker was ended by SIGKILL: starting it again")
    up.wait_said(r"(?s)SIGKILL.*worker starts")
    assert up.stop(signal.SIGINT) == 0


def test_a_busy_port_stops_it_before_anything_starts(start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        up = start("--demo", AGCLUSTER_PORT=str(other.getsockname()[1]))
        assert up.process.wait(START_TIMEOUT_S) == 1
    assert "is in use" in up.said()
    assert "--port" in up.said()
    assert "starting" not in up.said()


def test_without_any_isolation_it_says_what_to_install_and_starts_nothing(
    start: Start, folder: Path
) -> None:
    # Docker alone is allowed, and none answers there.
    up = start(
        "--demo", AGCLUSTER_ISOLATION="docker", DOCKER_HOST=f"unix://{folder}/no-engine.sock"
    )
    assert up.process.wait(START_TIMEOUT_S) == 1
    assert "nothing here can isolate an agent" in up.said()
    assert "nstall" in up.said()
    assert "starting Redis" not in up.said()


def test_a_signal_during_the_start_stops_it(start: Start) -> None:
    up = start("--demo")
    up.wait_said("starting gateway")
    assert up.stop(signal.SIGINT) == 0, up.said()
    assert sockets(up.folder) == []


def test_an_unknown_setting_is_refused(start: Start) -> None:
    up = start(AGCLUSTER_PROT="1")
    assert up.process.wait(START_TIMEOUT_S) == 2
    assert "AGCLUSTER_PROT" in up.said()


def test_doctor_finds_this_machine_fit_and_says_so_in_json(folder: Path) -> None:
    need("bwrap")
    need("redis")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")}
    environ |= {"AGCLUSTER_DATA_DIR": str(folder), "AGCLUSTER_PORT": "0"}
    command = [*python_command("infra.cli.main"), "doctor", "--json"]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=90, check=False
    )
    document = json.loads(done.stdout)
    assert (done.returncode, document["fit"]) == (0, True), done.stdout
    names = {one["name"] for one in document["findings"]}
    assert names >= {"python", "redis", "docker", "bubblewrap", "isolation", "port", "secret"}


def test_doctor_says_what_is_missing(folder: Path) -> None:
    environ = os.environ | {
        "AGCLUSTER_DATA_DIR": str(folder),
        "AGCLUSTER_REDIS_URL": f"unix://{folder}/no-redis.sock",
        "AGCLUSTER_DEMO": "true",
    }
    command = [*python_command("infra.cli.main"), "doctor"]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1
    assert "MISSING  redis" in done.stdout
    assert "cannot run here yet" in done.stdout
