"""How much a reader of JSON will have to stop at, told before it is read.

Brackets, commas, colons and escapes are what costs: a body of nothing else takes a hundred times as
long to read as a text or picture of its size. Counted slice by slice, so that a thread that counts
lets others run in between.
"""

from __future__ import annotations

SIGNS_MAX = 2_000_000
"""Text of a million tokens has fewer."""

_SIGNS = b"[{,:\\"
_SLICE_BYTES = 1024 * 1024


def has_many_signs(body: bytes | bytearray) -> bool:
    """Whether there are more than `SIGNS_MAX`."""
    if len(body) <= SIGNS_MAX:
        return False
    signs, view = 0, memoryview(body)
    for start in range(0, len(body), _SLICE_BYTES):
        piece = view[start : start + _SLICE_BYTES].tobytes()
        signs += len(piece) - len(piece.translate(None, _SIGNS))
        if signs > SIGNS_MAX:
            return True
    return False
