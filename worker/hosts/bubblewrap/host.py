"""Agents in bubblewrap: the container host of a machine without Docker.

It has the same folders, sockets and guarantees as Docker: no network, no capabilities, a read-only
root, no files of the host except the system's programs, reported exits, and sandboxes that outlive
the worker.

What bubblewrap alone cannot guarantee, and what replaces it:
- Memory and CPU limits need control groups. They are used if the worker can create them (as root).
  Otherwise an agent's number of processes and the size of its tmpfs are limited, and it shares the
  machine like any program of the same user, with a high `oom_score_adj`.
- The number of processes is limited by a control group, otherwise by RLIMIT_NPROC: per sandbox if
  an ordinary user runs it (a user namespace counts separately), over all sandboxes together if root
  does.
- Its seccomp filter (`worker.hosts.bubblewrap.seccomp`) forbids what reaches beyond the sandbox,
  while Docker's lists what is allowed. It exists for x86-64 and ARM64.
- The sandbox shares the host's kernel and /usr; Docker shares only the kernel.
- The agent's uid: root's sandboxes run as uid 1000, outside too. An ordinary user's sandboxes have
  that user's rights outside, so only the mount namespace confines them.

A sandbox consists of a waiting bwrap process (its parent is the worker, later nobody) and bwrap's
init, whose end takes every process of the sandbox with it. We watch and kill that init.
`--die-with-parent` is not used, because a worker may be killed and its successor adopts the
sandboxes. (A systemd service needs `KillMode=process` for that.)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from infra.runtime.clock import Clock, SystemClock
from infra.runtime.lifecycle import up_mark
from infra.wire.errors import (
    AgentImageRefused,
    ContainerFailed,
    EngineFailed,
    LeaseLost,
    NoIsolation,
)
from infra.wire.ids import HostId
from worker.hosts.blocking import BlockingCalls
from worker.hosts.bubblewrap.cgroups import CgroupRoot
from worker.hosts.bubblewrap.processes import (
    KILL_S,
    is_readable,
    kill,
    memory_file,
    pipe,
    wait_for_end,
)
from worker.hosts.bubblewrap.program import find_bwrap, try_namespaces
from worker.hosts.bubblewrap.records import (
    Process,
    Processes,
    SandboxRecord,
    SandboxRecords,
    StartUnderWay,
    boot_id,
)
from worker.hosts.bubblewrap.sandbox import AGENT_COMMAND, Sandbox, compile_agent
from worker.hosts.bubblewrap.seccomp import seccomp_filter
from worker.hosts.exit_feed import ExitFeed, ExitStream
from worker.hosts.form import ContainerForm
from worker.hosts.host import Container, ContainerExit, ContainerId, ContainerSpec, Limits
from worker.hosts.unlinked import unlinked_bytes

KILLED = 137

_THREADS = 4
_LAST_WORDS_S = 2.0
_FORK_POLL_S = 0.002
_OPEN_FILES_MAX = 8192
_SHARED_PIDS = 4096
_OOM_SCORE = 500
_STATUS_BYTES = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BubblewrapOptions:
    """How this host's sandboxes are created and found again."""

    cluster: str
    data_dir: Path
    call_timeout_s: float = 20.0
    start_timeout_s: float = 60.0
    command: tuple[str, ...] = AGENT_COMMAND
    """What runs inside."""


class BubblewrapHost:
    """`ContainerHost` based on Linux namespaces, through `bwrap`."""

    name = "bubblewrap"

    def __init__(
        self, host: HostId, options: BubblewrapOptions, *, clock: Clock | None = None
    ) -> None:
        self.host = host
        self._options = options
        self._clock = clock or SystemClock()
        self._records = SandboxRecords(options.data_dir, cluster=options.cluster, host=host)
        self._sandbox = Sandbox(private=options.data_dir, command=options.command)
        self._calls = BlockingCalls("bubblewrap", threads=_THREADS)
        self._feed = ExitFeed()
        self._watched: dict[ContainerId, _Watched] = {}
        self._spawned: dict[ContainerId, _Detached] = {}

    async def check(self) -> None:
        """Raises `NoIsolation` unless a sandbox can really be created here and the SDK is
        installed."""
        try:
            await self._calls.run(self._check, timeout_s=self._options.call_timeout_s)
        except TimeoutError as error:
            raise NoIsolation("bubblewrap does not answer") from error

    async def start(self, spec: ContainerSpec) -> Container:
        """See `ContainerHost`. Raises `LeaseLost` if a newer owner's sandbox exists."""
        try:
            record = await self._calls.run(
                lambda: self._start(spec),
                timeout_s=self._options.start_timeout_s,
                undo=lambda made: self._discard(made),
            )
        except TimeoutError as error:
            raise EngineFailed(
                f"bubblewrap did not start within {self._options.start_timeout_s:g} s"
            ) from error
        except OSError as error:
            raise EngineFailed(f"bubblewrap could not be started: {error}") from error
        self._watch(record, was_running=True)
        return _container(record, is_running=True)

    async def limit_cpus(self, id: ContainerId, cpus: float) -> None:
        """See `ContainerHost`. Without control groups, there is no limit at all."""
        if (groups := _cgroup_root()) is not None:
            # One small file of the kernel's: not worth a thread.
            groups.limit_cpus(id, cpus)

    async def stop(self, id: ContainerId, *, grace_s: float = 2.0) -> None:
        """See `ContainerHost`."""
        self._feed.expect_end(id)
        try:
            await self._calls.run(
                lambda: self._stop(id, grace_s),
                timeout_s=self._options.call_timeout_s + grace_s,
            )
        except TimeoutError as error:
            raise ContainerFailed(f"sandbox {id} does not stop") from error

    async def list(self) -> Sequence[Container]:
        """See `ContainerHost`."""
        try:
            found = await self._calls.run(self._list, timeout_s=self._options.call_timeout_s)
        except TimeoutError as error:
            raise ContainerFailed("the sandboxes could not be listed in time") from error
        for record, is_running in found:
            if is_running:
                self._watch(record, was_running=True)
        return [_container(record, is_running=is_running) for record, is_running in found]

    async def unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        """See `ContainerHost`."""
        try:
            return await self._calls.run(
                lambda: self._unlinked_bytes(id, workspace),
                timeout_s=self._options.call_timeout_s,
            )
        except TimeoutError as error:
            raise ContainerFailed(f"the files of sandbox {id} could not be seen") from error

    def exits(self) -> ExitStream:
        """See `ContainerHost`. Includes sandboxes that were stopped on purpose, never as out of
        memory.

        Reports only sandboxes that this object has started or listed, because the kernel announces
        no others.
        """
        stream = self._feed.subscribe()
        # A few small files, read once: not worth a task that would have to be kept.
        for record in self._records.all():
            self._watch(record, was_running=False)
        return stream

    async def aclose(self) -> None:
        """See `ContainerHost`."""
        loop = asyncio.get_running_loop()
        for watched in self._watched.values():
            watched.forget(loop)
            watched.close()
        self._watched.clear()
        self._calls.close()

    def _check(self) -> None:
        if sys.platform != "linux":
            raise NoIsolation("bubblewrap exists for Linux only")
        bwrap = find_bwrap()
        if bwrap is None:
            raise NoIsolation(
                "bubblewrap 0.8 or newer is not installed: apt install bubblewrap, dnf install "
                "bubblewrap, or pip install 'agcluster[embedded]'"
            )
        if self._sandbox.as_root and not os.access(self._sandbox.setpriv, os.X_OK):
            raise NoIsolation("setpriv is not installed: apt install util-linux")
        if self._options.command == AGENT_COMMAND and find_spec("claude_agent_sdk") is None:
            raise NoIsolation(
                "the Agent SDK is not installed in this Python, which agents in bubblewrap use: "
                "pip install 'agcluster[embedded]'"
            )
        if self._options.command == AGENT_COMMAND:
            compile_agent()
        self._sandbox.refuse_exposure()
        try_namespaces(bwrap, as_root=self._sandbox.as_root)
        if _cgroup_root() is None:
            log.warning("no control groups here: agents have no memory and CPU limit of their own")

    def _start(self, spec: ContainerSpec) -> SandboxRecord:
        if spec.form.image is not None:
            raise AgentImageRefused(
                f"image {spec.form.image}: agents in bubblewrap have no images, but the programs "
                "of this machine"
            )
        bwrap = find_bwrap()
        if bwrap is None:
            raise EngineFailed("bubblewrap is not installed")
        self._sandbox.refuse_exposure()
        with self._records.lock(spec.conversation, self._options.call_timeout_s):
            self._remove_leftovers(spec)
            record = SandboxRecord(
                id=ContainerId(f"{spec.conversation}-{secrets.token_hex(4)}"),
                conversation=spec.conversation,
                fence=spec.fence,
                cluster=self._options.cluster,
                host=self.host,
                created_ms=self._clock.unix_ms(),
                boot=boot_id(),
                form=spec.form.text,
            )
            try:
                self._spawn(bwrap, record, spec)
            except BaseException:
                self._discard(record)
                raise
        return record

    def _remove_leftovers(self, spec: ContainerSpec) -> None:
        for record in self._records.all():
            if record.conversation == spec.conversation:
                if record.fence > spec.fence:
                    raise LeaseLost(spec.conversation, spec.fence)
                self._discard(record)

    def _spawn(self, bwrap: Path, record: SandboxRecord, spec: ContainerSpec) -> None:
        folder = self._records.make(record)
        with contextlib.ExitStack() as opened:
            told, telling = pipe(opened)
            blocked, release = pipe(opened)
            status = opened.enter_context((folder / "status").open("wb", buffering=0))
            # Reserve its space now, so that bwrap can write there when the disk is full.
            status.write(b"\n" * _STATUS_BYTES)
            status.seek(0)
            output = opened.enter_context((folder / "log").open("ab"))
            fds = {
                place: memory_file(opened, content)
                for place, content in self._sandbox.files().items()
            }
            arguments = [
                *self._sandbox.arguments(spec, file_fds=fds),
                *("--info-fd", str(telling.fileno())),
                *("--block-fd", str(blocked.fileno())),
                *("--json-status-fd", str(status.fileno())),
            ]
            passed = [telling.fileno(), blocked.fileno(), status.fileno(), *fds.values()]
            if (program := seccomp_filter()) is not None:
                passed.append(memory_file(opened, program))
                arguments += ["--seccomp", str(passed[-1])]
            # By descriptor, because the sandbox's /proc/1 shows the command line.
            passed.append(memory_file(opened, b"".join(a.encode() + b"\0" for a in arguments)))
            self._spawned[record.id] = _Detached(
                [str(bwrap), "--args", str(passed[-1]), "--", *self._sandbox.program()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=passed,
                env=up_mark(),
                cwd="/",
                umask=0o022,
                start_new_session=True,
            )
            telling.close()
            blocked.close()
            try:
                init = self._let_go(record, spec.limits, told, release)
            except BaseException:
                # Before `release` closes, because bwrap takes an end of file for a go-ahead. And if
                # a disk is full, the sandbox may have no record.
                self._kill_group(record.id)
                raise
        self._see_it_run(record, init)

    def _let_go(
        self, record: SandboxRecord, limits: Limits, told: IO[bytes], release: IO[bytes]
    ) -> Process:
        """Let the program run, once its sandbox has its limits and a record."""
        init = self._first_words(record, told)
        try:
            self._bound(record, init, limits)
            bwrap_process = Process.of(self._spawned[record.id].pid)
            self._records.note(record.id, Processes(init, bwrap_process))
            release.write(b"go")
        except (ProcessLookupError, BrokenPipeError) as error:
            # It has already ended, for example because a folder to mount is missing.
            raise self._failure(record) from error
        return init

    def _kill_group(self, id: ContainerId) -> None:
        """Kill bwrap and its init, which are in one group, if bwrap is still our child."""
        if (spawned := self._spawned.get(id)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(spawned.pid, signal.SIGKILL)

    def _first_words(self, record: SandboxRecord, told: IO[bytes]) -> Process:
        """bwrap's init, from the pipe on which bwrap announces it."""
        said = b""
        give_up = time.monotonic() + self._options.call_timeout_s
        while not said.rstrip().endswith(b"}"):
            in_time = is_readable(told.fileno(), max(0.0, give_up - time.monotonic()))
            part = os.read(told.fileno(), 4096) if in_time else b""
            if not part:
                raise self._failure(record)
            said += part
        init = Process.of(int(json.loads(said)["child-pid"]))
        if init is None:
            raise self._failure(record)
        return init

    def _failure(self, record: SandboxRecord) -> EngineFailed:
        """The error output of a bwrap that gave up."""
        self._reap(record.id)
        return EngineFailed(f"bubblewrap failed: {self._records.log_tail(record.id)}")

    def _bound(self, record: SandboxRecord, init: Process, limits: Limits) -> None:
        """Put limits on bwrap's init; everything inside inherits them."""
        pids = limits.pids
        groups = _cgroup_root()
        if groups is not None:
            groups.make(record.id, limits).add(init.pid)
        elif self._sandbox.as_root:
            pids = _SHARED_PIDS
        if groups is None:
            resource.prlimit(init.pid, resource.RLIMIT_NPROC, (pids, pids))
        resource.prlimit(init.pid, resource.RLIMIT_CORE, (0, 0))
        largest = limits.file_mb << 20
        resource.prlimit(init.pid, resource.RLIMIT_FSIZE, (largest, largest))
        _, hard = resource.prlimit(init.pid, resource.RLIMIT_NOFILE)
        most = _OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(_OPEN_FILES_MAX, hard)
        resource.prlimit(init.pid, resource.RLIMIT_NOFILE, (most, most))
        with contextlib.suppress(OSError):
            # When the machine runs out of memory, an agent is killed before Redis or a worker.
            Path(f"/proc/{init.pid}/oom_score_adj").write_text(str(_OOM_SCORE))

    def _see_it_run(self, record: SandboxRecord, init: Process) -> None:
        """Wait until the program runs. Until then bwrap may still fail on a mount, and it does not
        report an exit code for that."""
        if not Path(f"/proc/{init.pid}/task/{init.pid}/children").exists() and init.is_alive():
            return
        give_up = time.monotonic() + self._options.call_timeout_s
        # Polls every few milliseconds, because the kernel announces neither fork nor exec.
        while not any(map(_is_program, init.children())):
            if not init.is_alive() or time.monotonic() > give_up:
                raise self._failure(record)
            time.sleep(_FORK_POLL_S)

    def _list(self) -> Sequence[tuple[SandboxRecord, bool]]:
        found = []
        self._records.drop_remains()
        for record in self._records.all():
            self._records.trim_log(record.id)
            processes = self._records.processes(record)
            if processes is None and self._is_half_made(record):
                continue
            found.append((record, processes is not None and processes.init.is_alive()))
        return found

    def _is_half_made(self, record: SandboxRecord) -> bool:
        """Whether the sandbox never came to run. Remains of a worker that died meanwhile are
        removed here."""
        try:
            with self._records.lock(record.conversation, 0):
                # While we hold the lock, no start is in progress: what is not recorded now never
                # will be.
                if record.boot != boot_id() or self._records.processes(record) is not None:
                    return False
                self._discard(record)
        except StartUnderWay:
            pass  # It may still start to run.
        return True

    def _stop(self, id: ContainerId, grace_s: float) -> None:
        record = self._records.get(id)
        if record is None:
            return
        processes = self._records.processes(record)
        if processes is not None and grace_s > 0 and processes.init.is_alive():
            for child in processes.init.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGTERM)
            wait_for_end(processes.init, grace_s)
        self._discard(record)

    def _unlinked_bytes(self, id: ContainerId, workspace: Path) -> int:
        record = self._records.get(id)
        processes = self._records.processes(record) if record is not None else None
        if processes is None or not processes.init.is_alive():
            return 0
        return unlinked_bytes(processes.init.pid, workspace)

    def _discard(self, record: SandboxRecord) -> None:
        """Kill whatever is left of a sandbox and remove its record."""
        self._feed.expect_end(record.id)
        processes = self._records.processes(record) or self._records.half_started(record)
        if processes is not None:
            kill(processes.init)
            if processes.bwrap is not None:
                # It writes into the record's folder until it has ended.
                wait_for_end(processes.bwrap, _LAST_WORDS_S)
        self._reap(record.id)
        if (groups := _cgroup_root()) is not None:
            groups.get(record.id).remove()
        self._records.drop(record.id)

    def _reap(self, id: ContainerId) -> None:
        """Collect bwrap if it is our child; otherwise init does."""
        spawned = self._spawned.pop(id, None)
        if spawned is None:
            return
        try:
            spawned.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(spawned.pid, signal.SIGKILL)
            spawned.wait(KILL_S)

    def _watch(self, record: SandboxRecord, *, was_running: bool) -> None:
        """Report the end of a sandbox, even one that already happened. Runs in the loop."""
        if record.id in self._watched:
            return
        processes = self._records.processes(record)
        init_fd = processes.init.open() if processes else None
        bwrap_fd = processes.bwrap.open() if processes and processes.bwrap else None
        watched = _Watched(record, init_fd, bwrap_fd)
        if init_fd is not None:
            self._watched[record.id] = watched
            asyncio.get_running_loop().add_reader(init_fd, self._ended, record.id)
        elif was_running:
            self._calls.later(lambda: self._tell(watched))
        else:
            watched.close()

    def _ended(self, id: ContainerId) -> None:
        watched = self._watched.pop(id)
        watched.forget(asyncio.get_running_loop())
        self._calls.later(lambda: self._tell(watched))

    def _tell(self, watched: _Watched) -> None:
        """Publish an exit, from a thread: bwrap may need a moment to write the code."""
        id = watched.record.id
        watched.await_last_words()
        code = self._records.exit_code(id)
        groups = _cgroup_root()
        memory = groups is not None and groups.get(id).was_out_of_memory()
        self._feed.publish(
            ContainerExit(
                id,
                watched.record.conversation,
                code,
                is_out_of_memory=code == KILLED or (memory and code != 0),
            )
        )
        watched.close()
        self._reap(id)


@dataclass(frozen=True)
class _Watched:
    """Descriptors of a sandbox's init and of the bwrap that waits for it."""

    record: SandboxRecord
    init_fd: int | None
    bwrap_fd: int | None

    def forget(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.init_fd is not None:
            loop.remove_reader(self.init_fd)

    def await_last_words(self) -> None:
        """Wait until bwrap has written the exit code, or was killed."""
        if self.bwrap_fd is not None:
            is_readable(self.bwrap_fd, _LAST_WORDS_S)

    def close(self) -> None:
        for fd in (self.init_fd, self.bwrap_fd):
            if fd is not None:
                os.close(fd)


class _Detached(subprocess.Popen[bytes]):
    """A process that outlives us on purpose, so dropping the object while it runs is not an
    error."""

    def __del__(self) -> None:
        """Do nothing; the parent class would warn."""


@functools.cache
def _cgroup_root() -> CgroupRoot | None:
    return CgroupRoot.find() if os.geteuid() == 0 else None


def _container(record: SandboxRecord, *, is_running: bool) -> Container:
    return Container(
        record.id,
        record.conversation,
        record.fence,
        is_running,
        record.created_ms,
        ContainerForm.of_text(record.form),
    )


def _is_program(pid: int) -> bool:
    """Whether a child of the init is no longer bwrap's own fork."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() != "bwrap"
    return False
