"""An agent that exchanges folders and links under its host's feet.

`Exchanger` is one that is always faster: it acts between any two system calls of this process, and
exactly where they hurt. `exchange_for_ever` is one as an agent would really run it, as fast as it
can.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> None:
    """The two names change places, in one step."""
    _LIBC.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)


def exchange_for_ever(top: Path, victim: Path, pairs: int, *, ready: int) -> None:
    """Fill the folder, write a byte to `ready`, and exchange until killed. Needs nothing of ours:
    its text runs inside a container as well."""
    os.chdir(top)
    names = []
    for i in range(pairs):
        os.makedirs(f"d{i}/sub/sub")
        for k in range(4):
            with open(f"d{i}/sub/f{k}", "w"):
                pass
        os.symlink(victim, f"l{i}")
        os.symlink(victim, f"d{i}/sub/link")
        names += [(f"d{i}", f"l{i}"), (f"d{i}/sub/sub", f"d{i}/sub/link")]
    exchange = ctypes.CDLL(None).renameat2
    pairs_of_bytes = [(a.encode(), b.encode()) for a, b in names]
    os.write(ready, b"!")
    while True:
        for a, b in pairs_of_bytes:
            exchange(-100, a, -100, b, 2)


class Exchanger:
    """Before each call that names a file, every pair of a folder and a link changes places.

    It holds its top folder, as a container's mount does: wherever that is moved, it still acts.
    """

    def __init__(self, top: Path, victim: Path) -> None:
        self.calls: list[tuple[str, str]] = []
        """What was called, and with which path."""
        self._top = top
        self._held = Path(f"/proc/self/fd/{os.open(top, os.O_PATH)}")
        self._victim = victim
        self._pairs: list[tuple[Path, Path]] = []
        self._is_busy = False

    def close(self) -> None:
        """Let go of the folder."""
        os.close(int(self._held.name))

    def plant(self, folder: Path) -> None:
        """A link beside that folder, to change places with."""
        link = folder.with_name(f"{folder.name}-link")
        link.symlink_to(self._victim)
        one, other = (self._held / path.relative_to(self._top) for path in (folder, link))
        self._pairs.append((one, other))

    def act(self, event: str, arguments: tuple[object, ...]) -> None:
        """A call is about to be made."""
        if self._is_busy or not event.startswith(("os.", "open")) or not arguments:
            return
        self._is_busy = True
        try:
            self.calls.append((event, str(arguments[0])))
            for folder, link in self._pairs:
                exchange(folder, link)
        finally:
            self._is_busy = False


_acting: list[Exchanger] = []
_is_hooked = False


@contextmanager
def acting(exchanger: Exchanger) -> Iterator[None]:
    """It acts while this is open. Python's audit hook cannot be taken away again, so there is one
    for all."""
    global _is_hooked
    if not _is_hooked:
        sys.addaudithook(_hook)
        _is_hooked = True
    _acting.append(exchanger)
    try:
        yield
    finally:
        _acting.remove(exchanger)
        exchanger.close()


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    for exchanger in _acting:
        exchanger.act(event, arguments)
