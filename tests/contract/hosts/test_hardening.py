"""What a hostile agent finds inside: the same in bubblewrap and in Docker."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from infra.wire.agents.bundle import BundleFile, bundle_digest, pack
from tests.contract.hosts.conftest import LIMITS, Machine, claimed, pooled
from tests.fakes import probe
from worker.hosts.folders.folders import Folders
from worker.hosts.form import ContainerForm
from worker.hosts.host import ContainerSpec

PROJECT = Path(__file__).resolve().parents[3]
HOW_TO = "---\ndescription: D.\n---\nHow to."


@pytest.fixture(params=["started", "claimed"])
async def inside(request: pytest.FixtureRequest, real_machine: Machine) -> ContainerSpec:
    """A running container, asked by way of its socket: its conversation's from the start, or a
    spare before."""
    host = pooled(real_machine, real_machine.host())
    if request.param == "claimed":
        return (await claimed(real_machine, host))[0]
    spec = real_machine.spec()
    await host.start(spec)
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
               "/workspace", "/tmp", "/home/agent", "/run/agcluster", "/run/cli"):
    try:
        open(os.path.join(folder, "x"), "w").close()
        print(folder)
    except OSError:
        pass
"""
    writable = set((await _python(inside, code)).split())

    assert writable == {
        "/workspace",
        "/tmp",
        "/home/agent",
        "/run/agcluster",
        "/run/cli",
    }


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


@pytest.mark.parametrize("folder", ["/tmp", "/home/agent", "/run/cli"])
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


CALLS = {
    # name: number on x86-64, on ARM64, arguments
    "unshare users": (272, 97, (0x10000000,)),
    "unshare mounts": (272, 97, (0x00020000,)),
    "clone into a namespace": (56, 220, (0x10000011, 0, 0, 0, 0)),
    "setns": (308, 268, (0, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "umount": (166, 39, (0, 0)),
    "pivot_root": (155, 41, (0, 0)),
    "open_tree": (428, 428, (-100, 0, 0)),
    "move_mount": (429, 429, (0, 0, 0, 0, 0)),
    "fsopen": (430, 430, (0, 0)),
    "bpf": (321, 280, (0, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, 0, 0, 0)),
    "userfaultfd": (323, 282, (0,)),
    "keyctl": (250, 219, (0, 0, 0, 0, 0)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "request_key": (249, 218, (0, 0, 0, 0)),
    "init_module": (175, 105, (0, 0, 0)),
    "finit_module": (313, 273, (0, 0, 0)),
    "kexec_load": (246, 104, (0, 0, 0, 0)),
    "open_by_handle_at": (304, 265, (0, 0, 0)),
    "quotactl": (179, 60, (0, 0, 0, 0)),
    "swapon": (167, 224, (0, 0)),
    "reboot": (169, 142, (0, 0, 0, 0)),
    "settimeofday": (164, 170, (0, 0)),
    "acct": (163, 89, (0,)),
    "syslog": (103, 116, (3, 0, 0)),
    "chroot": (161, 51, (0,)),
}


async def test_calls_that_reach_out_are_refused(inside: ContainerSpec) -> None:
    """By the filter: EPERM comes before a look at the (senseless) arguments."""
    code = f"""
import ctypes, json, os, platform
libc = ctypes.CDLL(None, use_errno=True)
column = ["x86_64", "aarch64"].index(platform.machine())
told = {{}}
for name, (*numbers, arguments) in {CALLS!r}.items():
    ctypes.set_errno(0)
    done = libc.syscall(numbers[column], *map(ctypes.c_long, arguments))
    if done == 0 and "clone" in name:
        os._exit(0)
    told[name] = ctypes.get_errno() if done == -1 else -done - 1000
print(json.dumps(told))
"""
    told = json.loads(await _python(inside, code))

    assert {name: errno for name, errno in told.items() if errno != 1} == {}


async def test_processes_that_are_not_ours_cannot_be_traced_or_changed(
    inside: ContainerSpec,
) -> None:
    """PID 1 is the init of the container, and root's where bubblewrap runs as root."""
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
ATTACH = 16
for pid in (1, os.getppid()):
    if os.stat(f"/proc/{pid}").st_uid != os.getuid():
        print(libc.ptrace(ATTACH, pid, 0, 0))
for file, text in (("/proc/self/oom_score_adj", "-1000"), ("/proc/sysrq-trigger", "h"),
                   ("/proc/sys/kernel/core_pattern", "|/workspace/x"),
                   ("/proc/sys/kernel/hostname", "x"), ("/proc/1/oom_score_adj", "-1000"),
                   ("/sys/fs/cgroup/memory.max", "max"),
                   ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "-1"),
                   ("/sys/kernel/uevent_helper", "/workspace/x")):
    try:
        with open(file, "wb", buffering=0) as opened:
            opened.write(text.encode())
        print("wrote", file)
    except OSError:
        pass
"""
    assert set((await _python(inside, code)).split()) <= {"-1"}


async def test_the_kernel_tells_nothing_of_the_machine_that_root_alone_may_know(
    inside: ContainerSpec,
) -> None:
    code = """
import os
for file in ("/proc/kcore", "/proc/kpagecount", "/proc/vmallocinfo", "/dev/mem", "/dev/kmem",
             "/proc/1/mem", "/proc/sched_debug", "/sys/kernel/debug/tracing/trace",
             "/sys/firmware/dmi/tables/DMI", "/var/log/syslog", "/etc/shadow"):
    try:
        if open(file, "rb").read(16):
            print("read", file)
    except OSError:
        pass
try:
    first = open("/proc/kallsyms").readline().split()
    print("addresses" if first and int(first[0], 16) else "")
except OSError:
    pass
"""
    assert await _python(inside, code) == ""


async def test_what_is_there_is_what_was_meant_to_be(inside: ContainerSpec) -> None:
    """Devices, mounts, names and the first process, as the agent sees them."""
    code = """
import json, os, socket, stat
devices = []
for folder, _, files in os.walk("/dev"):
    for name in files:
        path = os.path.join(folder, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            devices.append(path)
mounts = {}
for line in open("/proc/self/mountinfo"):
    left, right = line.split(" - ")
    words = left.split()
    mounts[words[4]] = [right.split()[0], words[5], right.split()[2]]
made = []
for kind in (stat.S_IFCHR, stat.S_IFBLK):
    try:
        os.mknod("/workspace/device", 0o600 | kind, os.makedev(1, 3))
        made.append(kind)
    except OSError:
        pass
child = os.fork()
if child == 0:
    if os.fork() == 0:
        os._exit(0)
    os._exit(0)
os.waitpid(child, 0)
import time
time.sleep(0.3)
states = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        states.append(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0])
    except OSError:
        pass
print(json.dumps({
    "devices": devices, "mounts": mounts, "made": made, "zombies": states.count("Z"),
    "hostname": socket.gethostname(), "first": open("/proc/1/comm").read().strip(),
    "routes": open("/proc/net/route").read().count("\\n"),
    "umask": os.umask(0),
}))
"""
    seen = json.loads(await _python(inside, code))

    names = ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts/ptmx")
    assert set(seen["devices"]) <= {f"/dev/{name}" for name in names}
    assert seen["made"] == [], "a device node could be made"
    assert seen["zombies"] == 0
    assert seen["hostname"] == "agent"
    assert seen["first"] in ("docker-init", "tini", "bwrap")
    assert seen["routes"] <= 1, "expected: the heading only"
    _judge_mounts(seen["mounts"])


def _judge_mounts(mounts: dict[str, list[str]]) -> None:
    virtual = ("overlay", "proc", "tmpfs", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2")
    writable = {
        place
        for place, (kind, flags, _) in mounts.items()
        if kind not in virtual and "rw" in flags.split(",")
    }
    # Docker's own three are root's.
    named = {"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}
    devices = {place for place in writable if place.startswith("/dev/")}
    assert writable - named - devices == {"/run/agcluster", "/workspace"}
    for place in ("/tmp", "/home/agent", "/run/cli", "/dev/shm"):
        kind, flags, _ = mounts[place]
        assert kind == "tmpfs", place
        assert {"nosuid", "nodev"} <= set(flags.split(",")), place
    assert "ro" in mounts["/"][1].split(",")
    assert "/var/run/docker.sock" not in mounts


async def test_no_name_is_looked_up_and_nobody_waits_for_it(inside: ContainerSpec) -> None:
    """On a Docker network without a way out the same takes ten seconds."""
    code = """
import socket, time
began = time.monotonic()
try:
    print(socket.getaddrinfo("example.com", 443))
except OSError:
    print("none")
print(time.monotonic() - began < 3)
try:
    print([line.strip() for line in open("/etc/resolv.conf")])
except FileNotFoundError:
    print([])
"""
    found, was_quick, resolvers = (await _python(inside, code)).splitlines()

    assert (found, was_quick) == ("none", "True")
    assert resolvers in ("[]", "['nameserver 127.0.0.1']"), "the host's resolvers show"


async def test_no_program_gives_its_user_more_rights(inside: ContainerSpec) -> None:
    """Neither one of the system that is there nor one the agent makes."""
    code = """
import os, shutil, subprocess
shutil.copy(shutil.which("id"), "/workspace/id")
os.chmod("/workspace/id", 0o6755)
print(subprocess.run(["/workspace/id", "-u"], capture_output=True, text=True).stdout.strip())
su = subprocess.run(["su", "-c", "id -u"], input="", capture_output=True, text=True)
print(su.stdout.strip() or "refused")
"""
    assert (await _python(inside, code)).split() == ["1000", "refused"]


async def test_an_agent_gets_no_more_of_the_processors_than_its_share(
    real_machine: Machine,
) -> None:
    if type(real_machine.host()).__name__ == "BubblewrapHost" and os.geteuid() != 0:
        pytest.skip(
            "no control groups without root: bubblewrap cannot bound memory and CPU (README)"
        )
    spec = real_machine.spec()
    await real_machine.host().start(spec)
    code = """
import os, time
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass
        os._exit(0)
    children.append(pid)
began = time.monotonic()
used = sum(os.wait4(pid, 0)[2].ru_utime for pid in children)
print(used / (time.monotonic() - began))
"""
    assert float(await _python(spec, code)) < LIMITS.cpus * 1.35


async def test_a_single_file_ends_at_the_limit(real_machine: Machine) -> None:
    """Wherever it is: also the log that the host keeps of what is printed."""
    made = real_machine.spec()
    spec = replace(made, limits=replace(made.limits, file_mb=8))
    await real_machine.host().start(spec)
    code = """
import os
written = 0
with open("/workspace/large", "wb", buffering=0) as file:
    try:
        while written < 64 << 20:
            written += file.write(bytes(1 << 20))
    except OSError as error:
        print(error.errno, written >> 20)
os.unlink("/workspace/large")
"""
    assert await _python(spec, code) == "27 8", "expected: file too large"


async def test_a_hog_is_ended_at_the_memory_limit(real_machine: Machine) -> None:
    if type(real_machine.host()).__name__ == "BubblewrapHost" and os.geteuid() != 0:
        pytest.skip(
            "no control groups without root: bubblewrap cannot bound memory and CPU (README)"
        )
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


HIDES = """
import os, subprocess, sys
MB = 1024 * 1024
def hidden(path, size):
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink(path)
    os.set_inheritable(fd, True)
    for _ in range(size):
        os.write(fd, os.urandom(MB))
    return fd
mine = hidden("/workspace/mine", 3)
reserved = hidden("/workspace/reserved", 0)
os.posix_fallocate(reserved, 0, 7 * MB)
hidden("/tmp/memory", 5)
# Held by two, and by one that was orphaned in a session of its own with an empty environment.
again = os.dup(mine)
theirs = hidden("/workspace/theirs", 11)
holder = "import time; print('up', flush=True); time.sleep(60)"
if os.fork() == 0:
    os.setsid()
    held = subprocess.Popen([sys.executable, "-Sc", holder], env={}, pass_fds=[theirs, mine],
                            stdout=subprocess.PIPE)
    held.stdout.readline()
    os._exit(0)
os.wait()
os.close(theirs)
print("held")
"""


async def test_files_that_are_unlinked_and_held_open_are_seen_from_outside(
    real_machine: Machine,
) -> None:
    host, spec = real_machine.host(), real_machine.spec()
    made = await host.start(spec)
    workspace = spec.folders.workspace
    assert await _python(spec, "print('up')") == "up"
    assert await host.unlinked_bytes(made.id, workspace) == 0

    assert await _python(spec, HIDES) == "held"

    seen = await host.unlinked_bytes(made.id, workspace)
    assert 21 << 20 <= seen < 22 << 20
    assert list(workspace.iterdir()) == []
    await host.stop(made.id)
    assert await host.unlinked_bytes(made.id, workspace) == 0


async def test_a_bundle_is_seen_and_not_changed(real_machine: Machine) -> None:
    raw = pack(
        {
            "skills/pdf/SKILL.md": BundleFile(HOW_TO.encode()),
            "workspace/a": BundleFile(b""),
        }
    )
    form = ContainerForm(bundle=bundle_digest(raw))
    assert form.bundle is not None
    folders = Folders(real_machine.data_dir)
    folders.bundles.put(form.bundle, raw)
    made = real_machine.spec()
    spec = replace(made, folders=folders.formed(made.folders, form), form=form)
    await real_machine.host().start(spec)
    skill = "/run/bundle/plugin/skills/pdf/SKILL.md"
    assert (await _shell(spec, f"cat {skill}")).out == HOW_TO
    for change in (f"echo x > {skill}", f"rm {skill}", "mkdir /run/bundle/x", f"chmod 777 {skill}"):
        assert "Read-only" in (await _shell(spec, change)).out, change
