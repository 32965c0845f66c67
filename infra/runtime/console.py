"""Output of a program before its logs are set up, or for the person who started it. Text is
escaped.

An error message may contain text from a setting, a server or an engine, and a terminal would obey
escape sequences in it.
"""

from __future__ import annotations

import sys

from infra.wire.text.foreign import escaped


def tell(text: str) -> None:
    """Print lines to standard output and flush."""
    print(escaped(text, keep_lines=True), flush=True)


def complain(text: str) -> None:
    """Print lines to standard error."""
    print(escaped(text, keep_lines=True), file=sys.stderr)
