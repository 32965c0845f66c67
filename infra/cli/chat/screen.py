"""What a chat looks like: text as it comes, and the work behind it folded to one line.

Everything is escaped, because a terminal obeys control characters. Where nobody watches (a pipe, a
file), there is nothing but the text, as it came.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

from infra.wire.text.foreign import escaped

_CLEAR = "\r\x1b[K"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_MARGIN = 4


class ChatScreen:
    """Writes one chat."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.is_watched = self._stream.isatty()
        self._has_colours = self.is_watched and "NO_COLOR" not in os.environ
        self._work = ""
        """All of the work of this answer."""
        self._folded = 0
        """How many of its lines were folded before."""
        self._is_folded = False
        """Whether the line of work is the one that the cursor is in."""
        self._ends_line = True

    @property
    def work(self) -> str:
        """What was folded in the newest answer."""
        return self._work

    def begin(self) -> None:
        """An answer begins."""
        self._work, self._folded, self._is_folded, self._ends_line = "", 0, False, True

    def tell_work(self, text: str) -> None:
        """More about the work: its newest line takes the place of the one before."""
        self._work += text
        lines = self._lines()
        if not self.is_watched or not lines:
            return
        if not self._is_folded and not self._ends_line:
            self._put("\n")
        room = shutil.get_terminal_size().columns - _MARGIN
        line = escaped(lines[-1].strip())[-room:]
        self._put(f"{_CLEAR}{self._dim(f'· {line}')}")
        self._is_folded, self._ends_line = True, False

    def tell_text(self, text: str) -> None:
        """More of the answer."""
        if self._unfold():
            text = text.lstrip("\n")
        self._put(escaped(text, keep_lines=True) if self.is_watched else text)
        self._ends_line = text.endswith("\n") if text else self._ends_line

    def end(self) -> None:
        """The answer is over."""
        self._unfold()
        if not self._ends_line:
            self._put("\n")
            self._ends_line = True

    def note(self, text: str) -> None:
        """A line of our own."""
        self.end()
        if self.is_watched:
            self._put(self._dim(escaped(text, keep_lines=True)) + "\n")

    def _unfold(self) -> bool:
        """Whether a line of work was shown: it gives way to how much was done."""
        if not self._is_folded:
            return False
        lines = len(self._lines())
        count, self._folded = max(lines - self._folded, 1), lines
        shown = f"▸ {count} line{'' if count == 1 else 's'} of work (/work shows them)"
        self._put(f"{_CLEAR}{self._dim(shown)}\n")
        self._is_folded, self._ends_line = False, True
        return True

    def _lines(self) -> list[str]:
        return [line for line in self._work.splitlines() if line.strip()]

    def _dim(self, text: str) -> str:
        return f"{_DIM}{text}{_PLAIN}" if self._has_colours else text

    def _put(self, text: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
