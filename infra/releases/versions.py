"""Versions in the form of semantic versioning, and their order. Pure."""

from __future__ import annotations

import re

VERSION_MAX_CHARS = 64

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_SEMANTIC = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
    r"(?:\+[0-9A-Za-z.-]+)?"
)

VersionKey = tuple[object, ...]


def version_key(version: str) -> VersionKey | None:
    """What sorts as the version does; None if it is not of the form `1.2.3` or `1.2.3-beta.1`.

    Numbers of more than nine digits are not of this form.
    """
    if len(version) > VERSION_MAX_CHARS or not (found := _SEMANTIC.fullmatch(version)):
        return None
    numbers = tuple(int(number) for number in found.groups()[:3])
    before = found[4]
    if before is None:
        return (*numbers, 1)
    return (*numbers, 0, tuple(map(_part, before.split("."))))


def _part(part: str) -> tuple[int, int, str]:
    """Numbers come before words, and are compared as numbers."""
    return (0, int(part), "") if part.isdecimal() and len(part) < 10 else (1, 0, part)
