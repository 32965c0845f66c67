"""Clients that run in node: their installation and the programs that drive them.

`package-lock.json` names every package with its hash, and no registry: npm asks the one the machine
is set up for. To renew it: change `package.json`, delete the lock, `npm install --ignore-scripts`.
`python -m tests.e2e.clients.node` installs the packages ahead of the tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.parts import node_program

HERE = Path(__file__).resolve().parent
INSTALL_TIMEOUT_S = 400.0
ANSWER_TIMEOUT_S = 120.0
_PINNED = ("package.json", "package-lock.json", ".npmrc")


class ClientFailed(Exception):
    """What a client threw, as its user would see it."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(f"{told['name']}: {told['message']}")
        self.status: int | None = told["status"]
        self.code: str | None = told["code"]
        self.param: str | None = told["param"]


class Call:
    """A command under way. Its events can be read while it runs, then its result."""

    def __init__(self, id: int) -> None:
        self.id = id
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()

    def put(self, line: dict[str, Any]) -> None:
        self._lines.put(line)

    def events(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[Any]:
        """What it told so far and tells from now on, until its end, which stays to be read."""
        while "event" in (line := self._lines.get(timeout=timeout_s)):
            yield line["event"]
        self._lines.put(line)

    def result(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Raises `ClientFailed`."""
        for _ in self.events(timeout_s):
            pass
        line = self._lines.get_nowait()
        if "error" in line:
            raise ClientFailed(line["error"])
        return line.get("ok")


class LineProgram:
    """A client that takes commands as lines, running."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def start(self, do: str, **command: Any) -> Call:
        call = Call(next(self._ids))
        self._calls[call.id] = call
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": call.id, "do": do, **command}) + "\n")
        self._process.stdin.flush()
        return call

    def ask(self, do: str, **command: Any) -> Any:
        return self.start(do, **command).result()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = json.loads(raw)
            self._calls[line["id"]].put(line)


def running(
    program: str, *, packages: Path, **environ: str
) -> contextlib.AbstractContextManager[LineProgram]:
    """`program` of this folder, with the packages that `install` made."""
    command = [str(node_program()), str(HERE / program)]
    return driving(command, NODE_PATH=str(packages / "node_modules"), **environ)


@contextlib.contextmanager
def driving(command: Sequence[str], **environ: str) -> Iterator[LineProgram]:
    """A client's program, until the end of the block. It gets no other environment."""
    process = subprocess.Popen(
        command,
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    driven = LineProgram(process)
    try:
        yield driven
    finally:
        driven.close()


def install() -> Path:
    """The folder with all packages of the lock; made once, then kept in the user's cache.

    Raises `RuntimeError` with npm's own words.
    """
    stamp = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in _PINNED))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agcluster-tests"
    cache.mkdir(parents=True, exist_ok=True)
    packages = cache / f"clients-{stamp.hexdigest()[:16]}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not packages.exists():
            begun = Path(tempfile.mkdtemp(dir=cache))
            try:
                _install_into(begun)
                begun.rename(packages)
            finally:
                shutil.rmtree(begun, ignore_errors=True)
    return packages


def _install_into(folder: Path) -> None:
    for name in _PINNED:
        shutil.copy(HERE / name, folder)
    npm(folder, "ci")


def npm(folder: Path, *arguments: str) -> None:
    """Run npm on a folder's `package.json`. No package runs scripts of its own.

    Raises `RuntimeError` with npm's own words.
    """
    node = node_program()
    assert node is not None
    own = node.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    command = [str(node), str(own)] if own.exists() else ["npm"]
    done = subprocess.run(
        [*command, *arguments, "--ignore-scripts"],
        cwd=folder,
        env={**os.environ, "PATH": f"{node.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"npm {arguments[0]}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    print(install())
