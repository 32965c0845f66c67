"""`agcluster up` as its user meets it: a real process with a real Redis and bubblewrap."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from infra.cli.up import guard
from tests.parts import need

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 40.0

pytestmark = [pytest.mark.bwrap, pytest.mark.redis, pytest.mark.timeout(240)]


@dataclass
class Up:
    """One started command and what it prints."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    output: Path
    pids: set[int] = field(default_factory=set)

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_said(self, pattern: str) -> None:
        wait(f"{pattern!r} in:\n{self.said()}", lambda: bool(re.search(pattern, self.said())))

    def wait_ready(self) -> None:
        self.wait_said(r"is ready|stopped:")
        assert "is ready" in self.said(), self.said()
        self.pids = descendants(self.process.pid)

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


def wait(what: str, done: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait for something another process decides."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """Every process below one, the guard too."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=30
    )
    pairs = (line.split() for line in listed.stdout.splitlines())
    parents = {int(child): int(parent) for child, parent in pairs}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


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


Start = Callable[..., Up]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: names of sockets must fit, and not where Python or the tests live."""
    with tempfile.TemporaryDirectory(prefix="agc-up-") as made:
        yield Path(made)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    need("bwrap")
    need("redis")
    started: list[Up] = []

    def begin(*arguments: str, **settings: str) -> Up:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AGCLUSTER_")}
        environ |= {
            "AGCLUSTER_DATA_DIR": str(folder / "d"),
            "AGCLUSTER_PORT": str(port),
            "AGCLUSTER_ISOLATION": "bubblewrap",
            **settings,
        }
        output = folder / f"out-{len(started)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli.main", "up", *arguments],
                cwd=folder,
                env=environ,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        up = Up(process, f"http://127.0.0.1:{environ['AGCLUSTER_PORT']}", folder / "d", output)
        started.append(up)
        return up

    yield begin
    for up in started:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait(10)


def ask(up: Up, text: str) -> httpx.Response:
    return httpx.post(
        f"{up.url}/v1/chat/completions",
        headers={"Authorization": "Bearer sk-ant-demo", "X-Conversation-ID": "one"},
        json={"model": "claude-sonnet-4.5", "messages": [{"role": "user", "content": text}]},
        timeout=90,
    )


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
    lines = subprocess.run(
        ["ps", "-o", "pid=,args=", *(f"-p{pid}" for pid in up.pids)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.splitlines()
    worker = next(int(line.split()[0]) for line in lines if line.endswith("-m worker.main"))
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
    command = [sys.executable, "-m", "infra.cli.main", "doctor", "--json"]
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
    command = [sys.executable, "-m", "infra.cli.main", "doctor"]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1
    assert "MISSING  redis" in done.stdout
    assert "cannot run here yet" in done.stdout
