"""What the user reads before they decide: a call of a tool, or a plan. Pure.

All of a call's input is shown, exactly: a call that is too long for that is not asked about. Signs
that nobody sees are written out, and long gaps are counted, so that nothing hides in them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agent.approvals.policy import Asks
from agent.cli.offers import OfferedCall

SHOWN_MAX_CHARS = 16_000
"""Of a call's input, and of a plan. A model that wants more has to make smaller calls."""
_GAP = re.compile(r"(?:[ \t]*\n){6,}[ \t]*|[ \t]{40,}")
# Letters and marks that show nothing although they are neither blanks nor controls.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d159"
    "\U000e0100-\U000e01ef]"
)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TICKS = re.compile(r"`+")
_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
_NOT_SHOWN = {"Bash": frozenset({"description"})}
"""What the model says about a call changes nothing in it, and may be wrong."""

NO_OPTION = "No. Say why, or what to do instead"


def is_too_long(given: Mapping[str, Any]) -> bool:
    """Whether an input cannot be shown as a whole."""
    return len(json.dumps(given, ensure_ascii=False)) > SHOWN_MAX_CHARS


def options_of(asks: Sequence[Asks], *, for_turn: bool | None) -> list[str]:
    """What the user may choose. `for_turn`: "always" counts for this turn only; None if it is not
    offered."""
    yes = "Yes" if len(asks) == 1 else "Yes, to all"
    if for_turn is None:
        return [yes, NO_OPTION]
    scopes = dict.fromkeys(_scope(scope) for one in asks for scope in one.scopes)
    how_long = "in this turn" if for_turn else "in this conversation"
    return [yes, f"{yes}, and do not ask again {how_long} about {', '.join(scopes)}", NO_OPTION]


def text_of_calls(calls: Sequence[OfferedCall], options: Iterable[str]) -> str:
    """The prompt for calls that ask at once."""
    if len(calls) == 1:
        head, *shown = ["**May I do this?**", _call(calls[0], "")]
    else:
        head = "**May I do this?** Answer for all, or for each, as in `A 1, B 3`."
        shown = [
            _call(call, f"{letter}. ") for letter, call in zip("ABCDEFGH", calls, strict=False)
        ]
    return "\n\n".join([head, *shown, _numbered(options)])


def text_of_plan(plan: str) -> str:
    """The prompt for a plan. It is the model's own text, so it is shown like any other."""
    options = ["Yes, carry it out", "No. Say what should be different"]
    shown = visible(plan).replace("<!--", "\\<!--").strip()
    return f"{shown}\n\n**Shall I carry out this plan?**\n\n{_numbered(options)}"


def visible(text: str) -> str:
    """The text with everything written out that cannot be seen."""
    before = f" {text}"
    shown = "".join(
        char if _is_seen(char, after) else f"\\u{{{ord(char):x}}}"
        for after, char in zip(before, text, strict=False)
    )
    return _GAP.sub(lambda gap: f" [… {len(gap[0])} times blank …] ", shown)


def _is_seen(char: str, after: str) -> bool:
    if char in "\ufe0e\ufe0f":  # It chooses between two looks of the sign before it.
        return unicodedata.category(after) == "So" and not _BLANK.match(after)
    is_blank = _BLANK.match(char) is not None
    return char in "\n\t " or not (is_blank or unicodedata.category(char) in _UNSEEN)


def _call(call: OfferedCall, mark: str) -> str:
    hidden = _NOT_SHOWN.get(call.name, ())
    given = {key: value for key, value in call.input.items() if key not in hidden}
    name = visible(call.name).replace("`", "'")
    return "\n\n".join([f"{mark}**{name}**", *_shown(call.name, given)])


def _shown(tool: str, given: Mapping[str, Any]) -> Iterator[str]:
    texts = {key: value for key, value in given.items() if _is_long(tool, key, value)}
    rest = {key: value for key, value in given.items() if key not in texts}
    if rest or not texts:
        yield _fenced(json.dumps(rest, ensure_ascii=False, indent=2), "json")
    for key, value in texts.items():
        if tool == "Bash":
            yield _fenced(value, "sh")
        else:
            yield f"{_named(key)}:\n\n{_fenced(value, '')}"


def _named(key: str) -> str:
    """The name of a part of an input, which may be anything, without being markup."""
    if _PLAIN_NAME.fullmatch(key):
        return key
    return f"`{visible(json.dumps(key, ensure_ascii=False)).replace('`', chr(39))}`"


def _is_long(tool: str, key: str, value: object) -> bool:
    return isinstance(value, str) and ("\n" in value or (tool == "Bash" and key == "command"))


def _fenced(text: str, language: str) -> str:
    """A block of code that its text cannot leave."""
    shown = visible(text)
    fence = "`" * max(3, 1 + max(map(len, _TICKS.findall(shown)), default=0))
    return f"{fence}{language}\n{shown}\n{fence}"


def _scope(scope: str) -> str:
    kind, _, told = scope.partition(":")
    if kind == "call":
        return "exactly this command"
    return f"`{visible(told).replace('`', '')}`"


def _numbered(options: Iterable[str]) -> str:
    return "\n".join(f"{i}. {option}" for i, option in enumerate(options, 1))
