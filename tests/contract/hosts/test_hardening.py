"""What a hostile agent finds inside: the same in bubblewrap and in Docker."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.contract.hosts.conftest import LIMITS, Machine
from tests.fakes import probe
from worker.hosts import ContainerSpec

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def inside(real_machine: Machine) -> ContainerSpec:
    """A running container, asked by way of its socket."""
    spec = real_machine.spec()
    await real_machine.host().start(spec)
    return spec


async def _python(spec: ContainerSpec, code: str) -> str:
    done = await probe.python(spec.folders.sockets, code)
    assert done.code == 0, done.out
    return done.out.strip()


async def _shell(spec: ContainerSpec, line: str) -> probe.Probed:
    return await probe.run(spec.folders.sockets, "sh", "-c", line)


async def test_the_agent_is_an_ordinary_user_without_any_power(inside: ContainerSpec) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in (await _python(inside, "print(open('/proc/self/status').read())")).splitlines()
        if ":\t" in line
    )

    assert set(status["Uid"].split()) == {"1000"}
    assert set(status["Gid"].split()) == {"1000"}
    assert status["Groups"].split() in ([], ["1000"])
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0, capabilities
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


async def test_only_the_workspace_and_temporary_folders_are_writable(
    inside: ContainerSpec,
) -> None:
    code = """
import os
for folder in ("/", "/usr", "/etc", "/opt", "/run", "/home", "/var", "/dev", "/proc", "/sys",
               "/workspace", "/tmp", "/home/agent", "/run/agcluster"):
    try:
        open(os.path.join(folder, "x"), "w").close()
        print(folder)
    except OSError:
        pass
"""
    writable = set((await _python(inside, code)).split())

    assert writable == {"/workspace", "/tmp", "/home/agent", "/run/agcluster"}


async def test_there_is_no_network_but_loopback(inside: ContainerSpec) -> None:
    code = "import socket; print([name for _, name in socket.if_nameindex()])"
    interfaces = await _python(inside, code)

    # A kernel may add inert tunnel devices to every namespace.
    assert "lo" in interfaces
    assert not any(word in interfaces for word in ("eth", "en", "wl", "docker", "veth"))
    reach = "import socket; print(socket.socket().connect_ex(('192.0.2.1', 80)))"
    assert await _python(inside, reach) == "101", "expected: network is unreachable"


async def test_the_agents_own_loopback_works(inside: ContainerSpec) -> None:
    """Tools talk to the model and to the world by forwarders on it."""
    code = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname(), timeout=5)
print("connected")
client.close(); server.close()
"""
    assert await _python(inside, code) == "connected"


async def test_files_of_the_host_do_not_show(inside: ContainerSpec, data_dir: Path) -> None:
    secret = data_dir / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    hidden = [secret, data_dir / "b", PROJECT / "worker", PROJECT / "tests", PROJECT / ".git"]
    code = f"import os; print([p for p in {[str(p) for p in hidden]!r} if os.path.exists(p)])"

    assert await _python(inside, code) == "[]"
    assert (await _shell(inside, "cat /etc/shadow; ls /var/run/docker.sock")).code != 0


async def test_processes_of_the_host_do_not_show(inside: ContainerSpec) -> None:
    code = "import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]))"

    assert int(await _python(inside, code)) <= 4
    assert (await _shell(inside, f"kill -0 {os.getpid()}")).code != 0


async def test_the_environment_holds_nothing_of_the_worker(
    real_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-canary-of-this-test")
    monkeypatch.setenv("AGCLUSTER_SECRET", "canary-of-this-test-canary-of-this-test")
    spec = real_machine.spec()
    await real_machine.host().start(spec)

    shown = await _python(
        spec,
        "import glob\n"
        "for f in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try: print(open(f, errors='replace').read())\n"
        "    except OSError: pass\n",
    )

    assert "canary" not in shown
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    environment = json.loads(await _python(spec, code))
    assert environment["HOME"] == "/home/agent"
    allowed = {"HOME", "PATH", "LANG", "HOSTNAME", "PWD", "LC_CTYPE"}
    assert set(environment) <= allowed


async def test_a_fork_bomb_ends_at_the_limit_and_the_container_still_answers(
    inside: ContainerSpec,
) -> None:
    """Bounded by itself as well: it gives up after twice the limit."""
    code = f"""
import os, signal, time
children = []
try:
    for _ in range({2 * LIMITS.pids}):
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        children.append(pid)
    print("unbounded")
except BlockingIOError:
    print("bounded", len(children))
finally:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
"""
    said = (await _python(inside, code)).split()

    assert said[0] == "bounded"
    assert int(said[1]) < LIMITS.pids
    assert await _python(inside, "print('alive')") == "alive"


@pytest.mark.parametrize("folder", ["/tmp", "/home/agent"])
async def test_temporary_folders_end_at_their_size(inside: ContainerSpec, folder: str) -> None:
    code = f"""
written = 0
try:
    with open({folder!r} + "/fill", "wb", buffering=0) as file:
        for _ in range({4 * LIMITS.tmp_mb}):
            written += file.write(bytes(1024 * 1024))
except OSError as error:
    print(error.errno, written)
"""
    errno, written = (await _python(inside, code)).split()

    assert errno == "28", "expected: no space left"
    assert int(written) <= LIMITS.tmp_mb * 1024 * 1024


@pytest.mark.parametrize("folder", ["/tmp", "/home/agent", "/workspace"])
async def test_tools_may_run_what_they_install(inside: ContainerSpec, folder: str) -> None:
    line = (
        f"printf '#!/bin/sh\\necho ran' > {folder}/tool && chmod +x {folder}/tool && {folder}/tool"
    )

    assert (await _shell(inside, line)).out.strip() == "ran"


async def test_semaphores_of_python_work(inside: ContainerSpec) -> None:
    code = "import multiprocessing; multiprocessing.Lock(); print('made')"

    assert await _python(inside, code) == "made"


@pytest.mark.parametrize(
    "call",
    [
        "libc.unshare(0x10000000)",  # CLONE_NEWUSER
        "libc.unshare(0x00020000)",  # CLONE_NEWNS
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.syscall({'x86_64': 321, 'aarch64': 280}[machine], 0, 0, 0)",  # bpf
        "libc.syscall({'x86_64': 250, 'aarch64': 219}[machine], 0, 0, 0, 0, 0)",  # keyctl
        "libc.syscall({'x86_64': 323, 'aarch64': 282}[machine], 0)",  # userfaultfd
    ],
)
async def test_calls_that_reach_out_are_refused(inside: ContainerSpec, call: str) -> None:
    code = f"""
import ctypes, platform
machine = platform.machine()
libc = ctypes.CDLL(None, use_errno=True)
print({call}, ctypes.get_errno())
"""
    assert await _python(inside, code) == "-1 1"


async def test_a_hog_is_ended_at_the_memory_limit(real_machine: Machine) -> None:
    if type(real_machine.host()).__name__ == "BubblewrapHost" and os.geteuid() != 0:
        pytest.skip("an ordinary user has no control groups here")
    spec = real_machine.spec()
    await real_machine.host().start(spec)
    hog = f"kept = [bytearray(1024 * 1024) for _ in range({4 * LIMITS.memory_mb})]"

    ended = await probe.run(spec.folders.sockets, "python3", "-c", hog)

    assert ended.code == -9
    assert await _python(spec, "print('alive')") == "alive"


async def test_the_workspace_outlives_its_container(real_machine: Machine) -> None:
    host, spec = real_machine.host(), real_machine.spec()
    first = await host.start(spec)
    await _shell(spec, "echo kept > /workspace/note")
    await host.stop(first.id)

    await host.start(real_machine.spec(spec.conversation, fence=2))

    assert (await _shell(spec, "cat note")).out.strip() == "kept"
    assert (spec.folders.workspace / "note").stat().st_uid == os.stat(spec.folders.workspace).st_uid
