"""The filter's verdicts, by running its program as the kernel would."""

from __future__ import annotations

import errno
import struct

import pytest

from worker.hosts.bubblewrap.seccomp import seccomp_filter

ALLOW = 0x7FFF0000
X86_64 = 0xC000003E
ARM64 = 0xC00000B7


def _verdict(
    number: int, *arguments: int, machine: str = "x86_64", audit: int = X86_64
) -> int | str:
    """The errno a call gets, or `allowed`."""
    program = seccomp_filter(machine)
    assert program is not None
    call = struct.pack("=IIQ6Q", number, audit, 0, *(*arguments, *[0] * (6 - len(arguments))))
    lines = list(struct.iter_unpack("=HBBI", program))
    at, loaded = 0, 0
    while True:
        code, skip_if, skip_unless, value = lines[at]
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", call, value)
        elif code == 0x06:
            return "allowed" if value == ALLOW else value & 0xFFFF
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}
            at += skip_if if holds[code] else skip_unless


@pytest.mark.parametrize("number", [0, 1, 9, 57, 59, 202, 257, 439])
def test_everyday_calls_are_allowed(number: int) -> None:
    assert _verdict(number) == "allowed"


@pytest.mark.parametrize("number", [165, 166, 155, 272, 308, 321, 250, 323, 425, 429, 175])
def test_calls_that_reach_out_are_refused(number: int) -> None:
    assert _verdict(number) == errno.EPERM


def test_processes_and_threads_are_allowed_but_no_new_namespace() -> None:
    assert _verdict(56, 0x003D0F00) == "allowed"
    assert _verdict(56, 17) == "allowed"
    assert _verdict(56, 0x10000000 | 17) == errno.EPERM


def test_clone3_is_not_there_so_that_libraries_use_clone() -> None:
    assert _verdict(435) == errno.ENOSYS


@pytest.mark.parametrize(
    ("family", "verdict"),
    [
        (1, "allowed"),
        (2, "allowed"),
        (10, "allowed"),
        (16, "allowed"),
        (17, errno.EAFNOSUPPORT),
        (38, errno.EAFNOSUPPORT),
        (40, errno.EAFNOSUPPORT),
    ],
)
def test_only_contained_socket_families_exist(family: int, verdict: int | str) -> None:
    assert _verdict(41, family) == verdict


def test_nothing_can_be_typed_into_a_terminal() -> None:
    assert _verdict(16, 0, 0x5412) == errno.EPERM
    assert _verdict(16, 0, 0x541C) == errno.EPERM
    assert _verdict(16, 0, 0x5413) == "allowed"


def test_another_numbering_of_calls_is_refused() -> None:
    assert _verdict(1, audit=0x40000003) == errno.ENOSYS
    assert _verdict(0x40000000 | 165) == errno.ENOSYS


def test_arm_has_its_own_numbers() -> None:
    assert _verdict(40, machine="aarch64", audit=ARM64) == errno.EPERM
    assert _verdict(64, machine="aarch64", audit=ARM64) == "allowed"
    assert _verdict(220, 0x10000000, machine="aarch64", audit=ARM64) == errno.EPERM
    assert _verdict(198, 40, machine="aarch64", audit=ARM64) == errno.EAFNOSUPPORT


def test_an_unknown_machine_has_no_filter() -> None:
    assert seccomp_filter("riscv64") is None
