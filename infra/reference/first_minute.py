"""Records the first minute with the demo as a terminal cast, and draws it as a moving picture.

`make cast` (needs `termtosvg`, in an environment of its own). Everything in it is real output: the
demo is started, and somebody talks to it in `agcluster chat`. Paths of this machine are replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS, ROWS = 120, 30
LONGEST_PAUSE_S = 1.5
"""Nobody wants to watch a wait."""
TYPED = ("what can you do?", "write notes.md: buy milk", "run wc -w notes.md")
PROMPT = "\x1b[32m$\x1b[0m "
_END_S = 60.0


@dataclass
class TerminalCast:
    """What was seen, in the form of asciicast v2."""

    hidden: Mapping[str, str]
    """Words of this machine, and what stands in their place."""
    now_s: float = 0.0
    events: list[tuple[float, str, str]] = field(default_factory=list)

    def show(self, text: str, *, after_s: float) -> None:
        self.now_s += min(after_s, LONGEST_PAUSE_S)
        for word, instead in self.hidden.items():
            text = text.replace(word, instead)
        self.events.append((round(self.now_s, 3), "o", boxed(text)))

    def type(self, command: str) -> None:
        """As somebody types it after a prompt."""
        self.show(PROMPT, after_s=0.8)
        for letter in command:
            self.show(letter, after_s=0.05)
        self.show("\r\n", after_s=0.4)

    def write(self, path: Path) -> None:
        head = {"version": 2, "width": COLUMNS, "height": ROWS}
        path.write_text("".join(f"{json.dumps(one)}\n" for one in (head, *self.events)))


def boxed(text: str) -> str:
    """The lines of the ready box, as wide as its frame again."""
    if not (frame := re.search(r"^\+-+\+", text, re.MULTILINE)):
        return text
    inner = len(frame[0]) - 2
    return re.sub(
        r"^\|(.*?)\s*\|(\r?)$", lambda m: f"|{m[1]:<{inner}}|{m[2]}", text, flags=re.MULTILINE
    )


class OwnTerminal:
    """A program in a terminal of its own."""

    def __init__(self, command: Sequence[str], *, environ: Mapping[str, str], folder: Path) -> None:
        self.master, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, cwd=folder,
            env={**os.environ, "TERM": "xterm-256color", **environ}, start_new_session=True,
        )  # fmt: skip
        os.close(inner)

    def show_until(self, cast: TerminalCast, wanted: str, *, quiet_s: float = 0.6) -> None:
        """Record until the words have come, and then nothing more. Raises `TimeoutError`."""
        seen, last, end = "", time.monotonic(), time.monotonic() + _END_S
        while time.monotonic() < end:
            if not select.select([self.master], [], [], quiet_s)[0]:
                if wanted in seen:
                    return
                continue
            text = os.read(self.master, 65536).decode(errors="replace")
            cast.show(text, after_s=time.monotonic() - last)
            seen, last = seen + text, time.monotonic()
        raise TimeoutError(f"{wanted!r} did not come: {seen[-500:]}")

    def ignore_the_rest(self) -> None:
        """Read on without recording: who writes to a full terminal waits."""

        def read() -> None:
            with contextlib.suppress(OSError):
                while os.read(self.master, 65536):
                    pass

        threading.Thread(target=read, daemon=True).start()

    def type(self, words: str) -> None:
        """Letter by letter."""
        for letter in words:
            os.write(self.master, letter.encode())
            time.sleep(0.05)

    def stop(self) -> None:
        """As Ctrl-C does."""
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(60)


def record(root: Path) -> TerminalCast:
    """The first minute, from the repository's root."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="agc-") as data:
        cast = TerminalCast(
            {
                data: "~/.local/share/agcluster", str(root): "~/agcluster", port: "8000",
                f"worker-{socket.gethostname()}": "worker-1", socket.gethostname(): "host-1",
            }
        )  # fmt: skip
        environ = {"AGCLUSTER_DATA_DIR": data, "AGCLUSTER_ISOLATION": "bubblewrap"}
        environ |= {"OPENAI_API_KEY": "sk-ant-demo", "AGCLUSTER_LOG_LEVEL": "WARNING"}
        cast.type("make run ARGS=--demo")
        demo = OwnTerminal(
            ["make", "-s", "run", "ARGS=--demo", f"PORT={port}"], environ=environ, folder=root
        )
        try:
            demo.show_until(cast, "Ctrl-C")
            demo.ignore_the_rest()
            cast.show("\r\n", after_s=LONGEST_PAUSE_S)
            cast.type(".venv/bin/agcluster chat        # in another terminal")
            url = f"http://127.0.0.1:{port}/v1"
            chat = OwnTerminal(
                [str(root / ".venv/bin/agcluster"), "chat", "--url", url],
                environ=environ, folder=root,
            )  # fmt: skip
            chat.show_until(cast, "", quiet_s=2.5)
            for words in TYPED:
                chat.type(words)
                os.write(chat.master, b"\r")
                chat.show_until(cast, "Try next", quiet_s=1.5)
            cast.show("", after_s=LONGEST_PAUSE_S)
            chat.type("\x04")
        finally:
            demo.stop()
    return cast


def main(arguments: Sequence[str]) -> int:
    """`python -m infra.reference.first_minute CAST`: record it into this file."""
    record(Path.cwd()).write(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
