"""How much of a turn's files the model is shown at once, beside the lines that name them. Pure."""

from __future__ import annotations

from infra.wire.files.kinds import PDF, PICTURES
from infra.wire.files.names import TEXT_MAX_BYTES

TEXTS_MAX_BYTES = 256 * 1024
"""Of all texts of a turn. The agent reads more of them where they are."""
NATIVE_MAX_BYTES = 20 * 1024 * 1024
"""Of all pictures and documents of a turn that are read from the file store: as much as its line to
the agent has room for, beside what came inline. The same for those that its agent fetches."""


class RoomToShow:
    """How much of a turn's files the model may still be shown at once."""

    def __init__(self) -> None:
        self._bytes = NATIVE_MAX_BYTES
        self._text_bytes = TEXTS_MAX_BYTES

    def may_show(self, media_type: str, size: int) -> bool:
        """Whether a file of that size may be, which it then takes."""
        if media_type in PICTURES or media_type == PDF:
            self._bytes -= (fits := size <= self._bytes) * size
            return fits
        fits = size <= TEXT_MAX_BYTES and size <= self._text_bytes
        self._text_bytes -= fits * size
        return fits
