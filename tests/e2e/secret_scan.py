"""Search what a deployment says and leaves behind for texts that were planted in it.

    look = [*redis_at_rest(client), *files_below(folder), *processes()]
    assert sightings(look, [Canary("key", "sk-...")]) == []

A scanner that cannot find makes a test that cannot fail, so
`tests/integration/test_secret_scan.py` plants canaries before each of these, and the tests
that use them plant one more where they look.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import re
import secrets
import socket
import stat
import string
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus

FILE_MAX_BYTES = 64 * 1024 * 1024
REGION_MAX_BYTES = 512 * 1024 * 1024
Client = Any
"""A `redis.Redis`, whose types are those of its asynchronous twin as well."""

_ARGUMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Canary:
    """A text that was planted, and what it stands for."""

    name: str
    text: str


@dataclass(frozen=True)
class Specimen:
    """Bytes that were found: of which kind of place, where exactly."""

    kind: str
    where: str
    held: bytes


@dataclass(frozen=True)
class Sighting:
    """A canary that was found."""

    canary: str
    spelling: str
    kind: str
    where: str


def letters(count: int) -> str:
    """A word nobody else uses."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(count))


@functools.cache
def spellings(text: str) -> dict[str, bytes]:
    """How a text may stand somewhere: as it is, and as programs write it."""
    raw = text.encode()
    escaped = json.dumps(text)[1:-1]
    found = {
        "plain": raw,
        "reversed": text[::-1].encode(),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "url": quote(text, safe="").encode(),
        "form": quote_plus(text).encode(),
        "json": escaped.encode(),
        "json, not ascii": json.dumps(text, ensure_ascii=False)[1:-1].encode(),
        "json in json": json.dumps(escaped)[1:-1].encode(),
        "utf-16": text.encode("utf-16-le"),
    }
    for offset in range(3):
        for name, encode in (
            ("base64", base64.b64encode),
            ("base64url", base64.urlsafe_b64encode),
        ):
            found[f"{name} at {offset}"] = _inside_base64(raw, offset, encode)
    return found


def _inside_base64(raw: bytes, offset: int, encode: Any) -> bytes:
    """What of a longer base64 text depends on `raw` alone, when `offset` bytes precede it."""
    encoded: bytes = encode(b"\0" * offset + raw)
    first = -(-offset * 8 // 6)
    return encoded[first : (offset + len(raw)) * 8 // 6]


def sightings(specimens: Iterable[Specimen], canaries: Sequence[Canary]) -> list[Sighting]:
    """Each canary in each specimen, once for each spelling that differs from the plain one."""
    found = []
    for specimen in specimens:
        for canary in canaries:
            seen: set[bytes] = set()
            for spelling, wanted in spellings(canary.text).items():
                if wanted not in seen and wanted in specimen.held:
                    found.append(Sighting(canary.name, spelling, specimen.kind, specimen.where))
                seen.add(wanted)
    return found


def kinds(specimens: Iterable[Specimen], canary: Canary) -> set[str]:
    """The kinds of place a canary was found in."""
    return {sighting.kind for sighting in sightings(specimens, [canary])}


# --- Redis ---------------------------------------------------------------------------------------


class Tap:
    """All that a Redis says to a connection that was told `command`, from `with` to its end."""

    def __init__(self, path: Path, command: str) -> None:
        self._path, self._command = path, command
        self._heard = bytearray()
        self._line = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    @property
    def heard(self) -> bytes:
        return bytes(self._heard)

    def __enter__(self) -> Tap:
        self._line.settimeout(10)
        self._line.connect(str(self._path))
        self._line.sendall(f"{self._command}\r\n".encode())
        self._heard += self._line.recv(65536)  # The server has begun.
        self._line.settimeout(None)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._line.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while part := self._line.recv(1 << 20):
                self._heard += part


def redis_at_rest(client: Client) -> Iterator[Specimen]:
    """Every name and every value, whatever its type, and the log of slow commands."""
    for name in client.scan_iter(count=1000):
        where = name.decode(errors="replace")
        yield Specimen("redis names", where, name)
        yield Specimen("redis values", where, _value(client, name))
    for entry in client.slowlog_get(-1):
        yield Specimen("redis slowlog", str(entry["id"]), entry["command"])


def _value(client: Client, name: bytes) -> bytes:
    """A value as one text. Its parts are apart, so that nothing is found that is not there."""
    readers: dict[bytes, Any] = {
        b"string": lambda: [client.get(name) or b""],
        b"hash": lambda: [part for pair in client.hgetall(name).items() for part in pair],
        b"list": lambda: client.lrange(name, 0, -1),
        b"set": lambda: client.smembers(name),
        b"zset": lambda: client.zrange(name, 0, -1),
        b"stream": lambda: [
            part for _, entry in client.xrange(name) for pair in entry.items() for part in pair
        ],
        b"none": list,  # It ended meanwhile.
    }
    return b"\n".join(readers[client.type(name)]())


def names_in_commands(monitored: bytes) -> bytes:
    """The names of keys and channels in what MONITOR told, one a line."""
    names: list[bytes] = []
    for line in monitored.splitlines():
        said = _ARGUMENT.findall(line)
        if not said:
            continue
        if said[0].lower() in (b"eval", b"evalsha") and len(said) > 2 and said[2].isdigit():
            names += said[3 : 3 + int(said[2])]
        else:
            names += said[1:2]
    return b"\n".join(names)


# --- Processes -----------------------------------------------------------------------------------


def processes() -> Iterator[Specimen]:
    """Environment and arguments of every process this one may look at, containers' too."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        where = f"{entry} {' '.join(called(int(entry))[:6])[:200]}"  # Before it may go.
        for kind, name in (("environments", "environ"), ("arguments", "cmdline")):
            with contextlib.suppress(OSError):
                yield Specimen(kind, where, Path("/proc", entry, name).read_bytes())


def called(pid: int) -> list[str]:
    """The arguments of a process; none when it has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def descendants(pid: int) -> set[int]:
    """Every process below one."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=30
    )
    pairs = (line.split() for line in listed.stdout.splitlines())
    parents = {int(child): int(parent) for child, parent in pairs}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def is_in_memory(pid: int, wanted: bytes) -> bool:
    """Whether a process has these bytes anywhere in memory it can write to.

    Raises `OSError` where this process may not look.
    """
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for region in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights = region.split()[:2]
            first, last = (int(end, 16) for end in place.split("-"))
            if "rw" not in rights or last - first > REGION_MAX_BYTES:
                continue
            with contextlib.suppress(OSError):  # It may be gone, or a device's.
                memory.seek(first)
                if wanted in memory.read(last - first):
                    return True
    return False


# --- Files and containers ------------------------------------------------------------------------


def files_below(folder: Path, kind: str) -> Iterator[Specimen]:
    """Every file below a folder, and what files and folders are called."""
    for parent, folders, files in os.walk(folder):
        names = "\n".join([*folders, *files])
        yield Specimen(kind, f"names in {parent}", os.fsencode(names))
        for name in files:
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    with path.open("rb") as file:
                        held = file.read(FILE_MAX_BYTES + 1)
                    assert len(held) <= FILE_MAX_BYTES, f"{path} is too large to be searched whole"
                    yield Specimen(kind, str(path), held)


def inspected(containers: Sequence[str]) -> Iterator[Specimen]:
    """What the engine tells of containers, and what they have printed."""
    for id in containers:
        yield Specimen("docker inspect", id[:12], docker("inspect", id))
        yield Specimen("docker logs", id[:12], docker("logs", id))


def docker(*arguments: str) -> bytes:
    """Both outputs; those of a container that has gone meanwhile say so."""
    done = subprocess.run(["docker", *arguments], capture_output=True, timeout=60, check=False)
    return done.stdout + done.stderr
