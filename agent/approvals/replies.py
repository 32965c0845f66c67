"""Reads what the user said to something that was asked of them. Pure.

Only plain words are a yes. Everything else is not, and the agent hears it: "yes, if the tests pass"
is for the agent to understand, and for the user to approve when it asks again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

CALLS_MAX = 8
"""Calls that may ask at once: the letters from A."""


class UserVerdict(StrEnum):
    """What the user decided."""

    YES = "yes"
    ALWAYS = "always"
    NO = "no"
    UNCLEAR = "unclear"


class UserReply(NamedTuple):
    """The user's decision about one call. `words`: why not, or what they said instead."""

    verdict: UserVerdict
    words: str = ""


# fmt: off
_YES = frozenset(
    {
        "yes", "y", "yep", "yeah", "yes please", "please do",
        "ok", "okay", "sure", "go", "go ahead", "go on",
        "do it", "approve", "approved", "allow", "allowed", "allow it",
        "i approve", "yes go ahead", "yes do it", "ja", "oui", "si",
        "sí", "sim", "da", "да", "はい", "是",
        "好",
    }
)
_ALWAYS = frozenset(
    {
        "always", "yes always", "always yes", "yes to all", "always allow", "allow always",
        "ja immer", "oui toujours",
    }
)
_NO = frozenset(
    {
        "no", "n", "nope", "no thanks", "don't", "do not",
        "stop", "deny", "denied", "reject", "rejected", "never",
        "cancel", "nein", "non", "nee", "нет", "いいえ",
        "不",
    }
)
# fmt: on
_NUMBER = re.compile(r"([123])(?:\s*$|[).:,;!\-–—\n]+\s*(.*))", re.DOTALL)
_NO_HEAD = re.compile(
    r"(?:no|nope|nein|non)\b(?![ ]?one)[\s,.:;!\-–—]+(.+)", re.DOTALL | re.IGNORECASE
)
_PAUSES = re.compile(r"[,.!;]+")
_LETTERED = re.compile(r"(?:^|[\n,;])\s*([A-H])\s*[).:=\-]?\s+([^\n,;]+)", re.IGNORECASE)
_BY_NUMBER = {"1": UserVerdict.YES, "2": UserVerdict.ALWAYS, "3": UserVerdict.NO}


def replies_in(words: str, count: int, *, has_always: bool) -> Sequence[UserReply]:
    """The user's decision about each of so many calls."""
    if count > 1 and (each := _each(words, count, has_always=has_always)):
        return each
    return [_reply(words, has_always=has_always)] * count


def _each(words: str, count: int, *, has_always: bool) -> list[UserReply] | None:
    """`A 1, B no`: None unless every part of it is for one of the calls."""
    found = {
        letter.upper(): _reply(said, has_always=has_always)
        for letter, said in _LETTERED.findall(words)
    }
    letters = [chr(ord("A") + i) for i in range(count)]
    if not found or not set(found) <= set(letters) or _LETTERED.sub("", words).strip(" \n,;.!"):
        return None
    return [found.get(letter, UserReply(UserVerdict.UNCLEAR, words.strip())) for letter in letters]


def _reply(words: str, *, has_always: bool) -> UserReply:
    said = words.strip()
    if found := _NUMBER.fullmatch(said):
        verdict, words = _numbered(found[1], has_always=has_always), (found[2] or "").strip()
        if words and verdict is not UserVerdict.NO:
            return UserReply(UserVerdict.UNCLEAR, said)  # A list, or a condition.
        return UserReply(verdict, words)
    plain = " ".join(said.lower().replace("’", "'").split()).strip(",.!; ")
    if plain and all(part.strip() in _YES for part in _PAUSES.split(plain) if part.strip()):
        return UserReply(UserVerdict.YES)
    if _PAUSES.sub("", plain) in _ALWAYS:
        return UserReply(UserVerdict.ALWAYS if has_always else UserVerdict.YES)
    if plain in _NO:
        return UserReply(UserVerdict.NO)
    if found := _NO_HEAD.fullmatch(said):
        return UserReply(UserVerdict.NO, said)
    return UserReply(UserVerdict.UNCLEAR, said)


def _numbered(number: str, *, has_always: bool) -> UserVerdict:
    if has_always:
        return _BY_NUMBER[number]
    return {"1": UserVerdict.YES, "2": UserVerdict.NO}.get(number, UserVerdict.UNCLEAR)
