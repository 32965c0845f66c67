"""Files that are generated from code: written, or compared with what they should contain."""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

WIDTH = 140
"""Characters of a line in generated documents."""


def apply(wanted: Mapping[Path, str], *, is_check: bool) -> int:
    """Write the texts, or only compare them and show the differences. Returns the exit code: 1 if a
    check finds a difference."""
    differing = 0
    for path, text in wanted.items():
        found = path.read_text() if path.exists() else ""
        if found == text:
            continue
        differing += 1
        if is_check:
            sys.stderr.writelines(
                difflib.unified_diff(
                    found.splitlines(keepends=True),
                    text.splitlines(keepends=True),
                    f"{path} as it is",
                    f"{path} as `make docs` writes it",
                    n=1,
                )
            )
        else:
            path.write_text(text)
            print(f"wrote {path}")
    return 1 if is_check and differing else 0


def replace_part(document: str, text: str, *, begin: str, end: str) -> str:
    """The document with a new part between two marks. Raises `ValueError` if it has no marks."""
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no part between {begin.strip()} and {end}")
    return f"{before}{begin}{text}{end}{after}"


def wrapped(text: str, *, item: str = "") -> str:
    """A paragraph, or with `item` (its mark) a list item, in lines that can be read."""
    return textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        initial_indent=item,
        subsequent_indent=" " * len(item),
        break_long_words=False,
        break_on_hyphens=False,
    )


def command(
    renewed: Callable[[], Mapping[Path, str]],
    *,
    printed: Callable[[], str],
    program: str,
    about: str | None,
    arguments: Sequence[str] | None = None,
) -> int:
    """The command of a module that generates documents: print, write or check them."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="renew what is generated")
    mode.add_argument("--check", action="store_true", help="fail if a document differs")
    given = parser.parse_args(arguments)
    if not given.write and not given.check:
        print(printed())
        return 0
    return apply(renewed(), is_check=given.check)


def run(
    document: Path,
    renewed: Callable[[str], str],
    *,
    printed: Callable[[], str],
    program: str,
    about: str | None,
    arguments: Sequence[str] | None = None,
) -> int:
    """The command of a module that generates parts of one document."""
    return command(
        lambda: {document: renewed(document.read_text())},
        printed=printed,
        program=program,
        about=about,
        arguments=arguments,
    )
