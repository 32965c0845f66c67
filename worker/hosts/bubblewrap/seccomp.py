"""The system calls that an agent in bubblewrap may not make, as a filter for `bwrap --seccomp`.

Docker has its own default profile; this one has the same intent. Everything is allowed except what
reaches beyond the isolation: new namespaces (their root may use kernel code that an ordinary user
never reaches), mounts, modules, keyrings, BPF, io_uring, clocks, and address families that a
network namespace does not contain (vsock reaches a virtual machine's host).

`clone3` returns "not implemented", because its flags are in memory that a filter cannot read. The C
library then uses `clone`, whose flags the filter can read.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

_NUMBER_AT = 0
_ARCH_AT = 4
_ARGUMENTS_AT = 16

_NAMESPACE_FLAGS = 0x7E020000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}."""
_TERMINAL_INPUT = 0x5412
"""TIOCSTI: types into the terminal that we were started from."""
_TERMINAL_PASTE = 0x541C
"""TIOCLINUX: the same through the console's selection."""
_SOCKET_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6, netlink (the C library lists addresses with it)."""
_X32_NUMBERS = 0x40000000

# From 424 on, numbers are the same on all architectures.
_SHARED_NUMBERS = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "quotactl_fd": 443,
}
_CLONE3 = 435


@dataclass(frozen=True)
class _Machine:
    """What differs between architectures: audit name and system call numbers."""

    audit: int
    clone: int
    ioctl: int
    socket: int
    denied: Mapping[str, int]
    numbers_end: int | None = None


_MACHINES = {
    "x86_64": _Machine(
        audit=0xC000003E,
        clone=56,
        ioctl=16,
        socket=41,
        numbers_end=_X32_NUMBERS,
        denied={
            "syslog": 103,
            "uselib": 134,
            "ustat": 136,
            "sysfs": 139,
            "vhangup": 153,
            "pivot_root": 155,
            "sysctl": 156,
            "chroot": 161,
            "acct": 163,
            "settimeofday": 164,
            "mount": 165,
            "umount2": 166,
            "swapon": 167,
            "swapoff": 168,
            "reboot": 169,
            "iopl": 172,
            "ioperm": 173,
            "create_module": 174,
            "init_module": 175,
            "delete_module": 176,
            "get_kernel_syms": 177,
            "query_module": 178,
            "quotactl": 179,
            "nfsservctl": 180,
            "lookup_dcookie": 212,
            "clock_settime": 227,
            "kexec_load": 246,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "unshare": 272,
            "perf_event_open": 298,
            "fanotify_init": 300,
            "open_by_handle_at": 304,
            "clock_adjtime": 305,
            "setns": 308,
            "kcmp": 312,
            "finit_module": 313,
            "kexec_file_load": 320,
            "bpf": 321,
            "userfaultfd": 323,
        },
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        clone=220,
        ioctl=29,
        socket=198,
        denied={
            "lookup_dcookie": 18,
            "umount2": 39,
            "mount": 40,
            "pivot_root": 41,
            "nfsservctl": 42,
            "chroot": 51,
            "vhangup": 58,
            "quotactl": 60,
            "acct": 89,
            "unshare": 97,
            "kexec_load": 104,
            "init_module": 105,
            "delete_module": 106,
            "clock_settime": 112,
            "syslog": 116,
            "reboot": 142,
            "settimeofday": 170,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "swapon": 224,
            "swapoff": 225,
            "perf_event_open": 241,
            "fanotify_init": 262,
            "open_by_handle_at": 265,
            "clock_adjtime": 266,
            "setns": 268,
            "kcmp": 272,
            "finit_module": 273,
            "bpf": 280,
            "userfaultfd": 282,
            "kexec_file_load": 294,
        },
    ),
}


def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter as `bwrap --seccomp` reads it; None for an architecture without a table here."""
    found = _MACHINES.get(machine or platform.machine())
    return None if found is None else b"".join(_program(found))


def _program(machine: _Machine) -> list[bytes]:
    # This table does not apply to calls with another architecture's numbers.
    program = [
        _load(_ARCH_AT),
        _jump(_EQUAL, machine.audit, skip_if=1),
        _refuse(errno.ENOSYS),
        _load(_NUMBER_AT),
    ]
    if machine.numbers_end is not None:
        program += [
            _jump(_AT_LEAST, machine.numbers_end, skip_unless=1),
            _refuse(errno.ENOSYS),
        ]
    program += [_jump(_EQUAL, _CLONE3, skip_unless=1), _refuse(errno.ENOSYS)]
    for number in sorted({*machine.denied.values(), *_SHARED_NUMBERS.values()}):
        program += [_jump(_EQUAL, number, skip_unless=1), _refuse(errno.EPERM)]
    program += _when(machine.clone, 0, [_jump(_ANY_BIT, _NAMESPACE_FLAGS, skip_unless=1)])
    program += _when(
        machine.ioctl,
        1,
        [
            _jump(_EQUAL, _TERMINAL_INPUT, skip_if=1),
            _jump(_EQUAL, _TERMINAL_PASTE, skip_unless=1),
        ],
    )
    program += _when(machine.socket, 0, _none_of(_SOCKET_FAMILIES), reason=errno.EAFNOSUPPORT)
    return [*program, _allow()]


def _when(number: int, argument: int, test: list[bytes], reason: int = errno.EPERM) -> list[bytes]:
    """Refuse call `number` unless `test` of an argument's lower half skips the refusal."""
    body = [_load(_ARGUMENTS_AT + 8 * argument), *test, _refuse(reason), _allow()]
    return [_jump(_EQUAL, number, skip_unless=len(body)), *body]


def _none_of(values: tuple[int, ...]) -> list[bytes]:
    """Skip the following refusal for each of the values."""
    last = len(values) - 1
    return [_jump(_EQUAL, value, skip_if=last - i + 1) for i, value in enumerate(values)]


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, offset)


def _jump(test: int, value: int, *, skip_if: int = 0, skip_unless: int = 0) -> bytes:
    return _instruction(test, value, skip_if, skip_unless)


def _refuse(reason: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | reason)


def _allow() -> bytes:
    return _instruction(_RETURN, _ALLOW)


def _instruction(code: int, value: int, skip_if: int = 0, skip_unless: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skip_if, skip_unless, value)
