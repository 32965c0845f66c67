"""Estimates how expensive JSON is to parse, before parsing it.

Brackets, commas, colons and escapes determine the cost: a body that consists of them takes a
hundred times as long as a text or picture of the same size. They are counted in slices, so that a
thread that counts lets others run in between.
"""

from __future__ import annotations

SIGNS_MAX = 2_000_000
"""A text of a million tokens has fewer."""

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
