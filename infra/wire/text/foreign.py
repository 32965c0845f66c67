"""Makes text from others safe for a log line, an error or a terminal.

An agent, a client or an upstream may send any characters: line breaks that forge log lines, escape
sequences that a terminal obeys, marks that change the reading direction. Every program passes such
text through this module before it logs or prints it.
"""

from __future__ import annotations

import re

FOREIGN_MAX_CHARS = 200

# C0, DEL and C1; marks and overrides of direction; line and paragraph separators; halves of
# surrogate pairs, which no terminal can be sent; invisible tags and byte-order marks.
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"
)
_UNSAFE_SIGN = re.compile(f"[{_UNSAFE}]")
_UNSAFE_BUT_LINE = re.compile(f"(?![\n\t])[{_UNSAFE}]")
_IN_QUOTES = re.compile(f'[{_UNSAFE}"\\\\]')
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def escaped(text: str, *, keep_lines: bool = False) -> str:
    """The text with every character escaped that a log line or a terminal would obey.

    With `keep_lines`, line breaks and tabs stay, for a terminal that shows a whole text.
    """
    return (_UNSAFE_BUT_LINE if keep_lines else _UNSAFE_SIGN).sub(_escape, text)


def foreign(text: str | bytes, *, max_chars: int = FOREIGN_MAX_CHARS) -> str:
    """The text in quotes on one line, escaped, and truncated with a note of its full length."""
    length = len(text)
    head = text[:max_chars]
    said = head.decode("utf-8", "replace") if isinstance(head, bytes) else head
    shown = f'"{_IN_QUOTES.sub(_escape, said)}"'
    return shown if length <= max_chars else f"{shown}… ({length} in all)"


def _escape(sign: re.Match[str]) -> str:
    char = sign[0]
    if short := _SHORT.get(char):
        return short
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
