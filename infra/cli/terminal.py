"""The command's output: progress, the programs' own lines, and the box at the end.

Everything is escaped before it is printed, because a terminal obeys control characters from an
agent or a client.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

import typer

from infra.wire.text.foreign import escaped


def say(text: str, *, is_error: bool = False) -> None:
    """Print lines that may contain foreign text: labels, answers, errors of a server."""
    typer.echo(escaped(text, keep_lines=True), err=is_error)


class Terminal:
    """Writes whole lines at once. It is not an error if the reader is gone."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._is_open = True

    def step(self, text: str) -> None:
        """One step of what the command is doing."""
        self._write(f"==> {text}")

    def detail(self, text: str) -> None:
        """More about the step above."""
        for line in text.splitlines():
            self._write(f"    {line}")

    def program_line(self, program: str, line: str) -> None:
        """A line of a program's own output."""
        self._write(f"{program:<8}| {line}")

    def box(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A title and named facts, framed in plain characters that every terminal has."""
        width = max(len(name) for name, _ in rows)
        lines = [title, "", *(f"{name:<{width}}  {fact}" for name, fact in rows)]
        inner = max(map(len, lines))
        self._write("+" + "-" * (inner + 2) + "+")
        for line in lines:
            self._write(f"| {line:<{inner}} |")
        self._write("+" + "-" * (inner + 2) + "+")

    def plain(self, lines: Iterable[str]) -> None:
        """Unchanged lines, for copying."""
        for line in lines:
            self._write(line)

    def _write(self, line: str) -> None:
        if not self._is_open:
            return
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(escaped(line).encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # `agcluster up | head`, or a closed terminal: the programs continue silently.
            self._is_open = False
