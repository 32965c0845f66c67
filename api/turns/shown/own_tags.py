"""Keeps the tags of folded blocks (`api.turns.shown.folded`) out of what the model wrote. Pure.

A space without width in a tag makes it a text that looks the same. It works on the literals of
deltas, and a tag may be cut by them anywhere. `infra.wire.history.answers.without_folded` takes the
spaces out again.
"""

from __future__ import annotations

import json
import re
from json.encoder import encode_basestring_ascii

_SPACE = rb"\u200b"
_OPENING = b"<" + _SPACE
_ASCII = re.compile(rb"\\u00[2-7]")
_TAG = re.compile(rb"<(?=think|details[ \\])", re.IGNORECASE)
"""How begins what is folded. `<details>` alone is nothing of ours: a model may use it."""

_BEGUN = (b"<thin", b"<details")
"""The longest text of each that is no tag yet."""


class SaidText:
    """Text of an answer. No tag of a folded block begins in what is shown of it."""

    def __init__(self) -> None:
        self._begun = b""
        """The end of the text so far, if it may be the beginning of a tag."""

    def shown(self, literal: bytes) -> bytes:
        """The literal of the next delta. It is the same object if there is no `<` about."""
        literal = _plain(literal)
        if not self._begun and b"<" not in literal:
            return literal
        said = literal[1:-1]
        shown = _TAG.sub(lambda _: _OPENING, said)
        if self._begun and _TAG.match(self._begun + said):
            shown = _SPACE + shown
        at = said.rfind(b"<")
        end = self._begun + said if at < 0 else said[at:]
        is_begun = len(end) <= len(_BEGUN[1]) and any(tag.startswith(end.lower()) for tag in _BEGUN)
        self._begun = end if is_begun else b""
        return b'"' + shown + b'"'


def without_tags(literal: bytes) -> bytes:
    """A literal in which no tag of any kind can begin, even one that is cut in two: every `<` is
    followed by such a space."""
    literal = _plain(literal)
    return literal.replace(b"<", _OPENING) if b"<" in literal else literal


def _plain(literal: bytes) -> bytes:
    """The literal without escapes for characters that need none. An agent may send any."""
    if b"\\u00" not in literal or not _ASCII.search(literal):
        return literal
    return encode_basestring_ascii(json.loads(literal)).encode()
