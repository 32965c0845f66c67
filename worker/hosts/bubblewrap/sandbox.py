"""What an agent in bubblewrap sees, as bwrap's arguments. This module starts no process.

The root is an empty, read-only tmpfs that contains only the system's programs (/usr and its links),
a few files of /etc that we generate, the certificates, the Python that runs us with its packages
(the Agent SDK includes the CLI), `agent/` and `infra/wire/`. Nothing else of the project, of
anybody's home, of /var, /run or /etc is there.
"""

from __future__ import annotations

import compileall
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import infra
from infra.wire.agents.plugin import BUNDLE_AT
from infra.wire.errors import NoIsolation
from worker.hosts.folders.folders import AGENT_UID
from worker.hosts.host import CLI_TEMP_AT, ContainerSpec

HOME = "/home/agent"
CODE = "/opt/agcluster"
SHM_MB = 64

AGENT_COMMAND = (
    sys.executable,
    # -I: neither the workspace nor the environment can change which code the server runs.
    "-IB",
    "-c",
    f"import runpy, sys; sys.path.insert(0, {CODE!r}); "
    "runpy.run_module('agent.main', run_name='__main__', alter_sys=True)",
)

_AGENT_CODE = ("agent", "infra/__init__.py", "infra/wire")
_SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "/etc/alternatives",
    "/etc/ca-certificates.conf",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
)
_MADE_FILES = {
    "/etc/passwd": f"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
    f"agent:x:{AGENT_UID}:{AGENT_UID}:agent:{HOME}:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": f"root:x:0:\nagent:x:{AGENT_UID}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost agent\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def compile_agent() -> None:
    """Compile the agent's code once, if we may write there: a sandbox cannot keep compiled code.

    Otherwise each start compiles it again, which takes a fifth of a second of CPU.
    """
    for part in _AGENT_CODE:
        if (folder := _project() / part).is_dir():
            compileall.compile_dir(folder, quiet=2)


def _project() -> Path:
    return Path(infra.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Sandbox:
    """The view of every agent of this worker.

    `private` are folders that must never be visible (the worker's own data). `as_root`: bwrap runs
    as root, mounts with root's rights and switches to the agent's uid inside; otherwise a user
    namespace maps that uid to the worker's own.
    """

    private: Path
    command: Sequence[str] = AGENT_COMMAND
    as_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    setpriv: str = "/usr/bin/setpriv"

    def files(self) -> dict[str, bytes]:
        """Generated files of the sandbox, by their path in it."""
        return {place: text.encode() for place, text in _MADE_FILES.items()}

    def arguments(self, spec: ContainerSpec, *, file_fds: dict[str, int]) -> list[str]:
        """bwrap's options. `file_fds` has a descriptor for each of `files()`."""
        return [
            *self._namespaces(),
            *self._environment(),
            *self._temporary(spec),
            *self._system(),
            *(part for place, fd in file_fds.items() for part in _made_file(place, fd)),
            *self._session(spec),
            # Last, because from here on nothing can be created in the root or in /dev.
            *("--remount-ro", "/dev", "--remount-ro", "/"),
        ]

    def program(self) -> list[str]:
        """The command that bwrap runs."""
        if not self.as_root:
            return [*self.command]
        ids = (f"--reuid={AGENT_UID}", f"--regid={AGENT_UID}", "--clear-groups")
        powers = ("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")
        # Only the agent's uid can open the folder, so bwrap could not change to it before.
        return [self.setpriv, *ids, *powers, "env", "--chdir=/workspace", *self.command]

    def refuse_exposure(self) -> None:
        """Raises `NoIsolation` if a folder that the sandbox needs contains something it must not
        show."""
        for folder in self._python():
            if self.private.is_relative_to(folder):
                raise NoIsolation(
                    f"agents see {folder} (this Python lives there), and the data of "
                    f"conversations is in it: move AGCLUSTER_DATA_DIR elsewhere"
                )

    def _namespaces(self) -> Iterator[str]:
        yield from ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts")
        yield from ("--unshare-cgroup-try", "--new-session", "--hostname", "agent")
        yield from ("--cap-drop", "ALL")
        if self.as_root:
            # For setpriv, which drops these as well.
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
                yield from ("--cap-add", capability)
        else:
            yield from ("--unshare-user", "--disable-userns")
            yield from ("--uid", str(AGENT_UID), "--gid", str(AGENT_UID))

    def _environment(self) -> Iterator[str]:
        own_python = str(Path(self.command[0]).parent)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        yield "--clearenv"
        yield from ("--setenv", "HOME", HOME)
        yield from ("--setenv", "PATH", f"{path}:{own_python}")
        yield from ("--setenv", "LANG", "C.UTF-8")
        yield from ("--chdir", "/" if self.as_root else "/workspace")

    def _temporary(self, spec: ContainerSpec) -> Iterator[str]:
        size = str(spec.limits.tmp_mb * 1024 * 1024)
        # Folders above a mount point would get the mode of its source, such as 0700 for a home.
        for folder in ("/etc", "/home", "/opt", CODE, f"{CODE}/infra", "/root", "/run"):
            yield from ("--perms", "0755", "--dir", folder)
        yield from ("--proc", "/proc", "--dev", "/dev")
        yield from _tmpfs("/dev/shm", str(SHM_MB * 1024 * 1024), "1777")
        yield from _tmpfs("/tmp", size, "1777")
        # If root runs bwrap, it creates them as root; only the agent is inside.
        for place in (HOME, CLI_TEMP_AT):
            yield from _tmpfs(place, size, "1777" if self.as_root else "0700")

    def _system(self) -> Iterator[str]:
        yield from ("--ro-bind", "/usr", "/usr")
        for folder in _SYSTEM_FOLDERS:
            if os.path.islink(folder):
                yield from ("--symlink", os.readlink(folder), folder)
            elif os.path.isdir(folder):
                yield from ("--ro-bind", folder, folder)
        for file in _ETC:
            if os.path.exists(file):
                yield from ("--ro-bind", os.path.realpath(file), file)
        for home in self._python():
            for parent in reversed(home.parents[:-1]):
                yield from ("--perms", "0755", "--dir", str(parent))
            yield from ("--ro-bind", str(home), str(home))
        for part in _AGENT_CODE:
            if (_project() / part).exists():
                yield from ("--ro-bind", str(_project() / part), f"{CODE}/{part}")

    def _python(self) -> list[Path]:
        """Where this Python and its packages are: a virtual environment and its base."""
        folders = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix)}
        for program in _links(Path(sys.executable)):
            folders.add(program.parent.parent)
        home = Path.home()
        wanted = [
            folder
            for folder in sorted(folders)
            if folder != Path("/") and not folder.is_relative_to("/usr")
        ]
        for folder in wanted:
            if home.is_relative_to(folder):
                raise NoIsolation(
                    f"this Python lives in {folder} itself, so agents would see everything there: "
                    "run AgCluster from a virtual environment"
                )
        return [f for f in wanted if not any(f.is_relative_to(o) for o in wanted if o != f)]

    def _session(self, spec: ContainerSpec) -> Iterator[str]:
        yield from ("--bind", str(spec.folders.sockets), "/run/agcluster")
        yield from ("--bind", str(spec.folders.workspace), "/workspace")
        if spec.folders.bundle is not None:
            yield from ("--ro-bind", str(spec.folders.bundle), BUNDLE_AT)


def _tmpfs(place: str, size: str, perms: str) -> Iterator[str]:
    yield from ("--perms", perms, "--size", size, "--tmpfs", place)


def _made_file(place: str, fd: int) -> Iterator[str]:
    yield from ("--perms", "0644", "--ro-bind-data", str(fd), place)


def _links(program: Path) -> Iterator[Path]:
    """The program and every file on the way through its symbolic links."""
    yield program
    while program.is_symlink():
        program = program.parent / os.readlink(program)
        program = Path(os.path.normpath(program))
        yield program
