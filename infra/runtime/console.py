"""What a program says before it has logs, or to the person who started it: escaped first.

An error may hold what a setting, a server or an engine said, and a terminal obeys that.
"""

from __future__ import annotations

import sys

from infra.wire.foreign import escaped


def tell(text: str) -> None:
    """Print lines to the standard output, at once."""
    print(escaped(text, keep_lines=True), flush=True)


def complain(text: str) -> None:
    """Print lines to the standard error."""
    print(escaped(text, keep_lines=True), file=sys.stderr)
