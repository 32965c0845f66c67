"""All files of a conversation as one zip, made while it is sent."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from stream_zip import ZIP_AUTO, Method, async_stream_zip

from api.files.answer import PiecesAnswer, Reader, attachment
from api.files.made_files import KeptFile

_MODE = 0o100644
_LEVEL = 1
"""Of compression: a little, because it takes the CPU of a replica."""
_Member = tuple[str, datetime, int, Method, AsyncIterator[bytes]]
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
"""What no file name may have on one system or another."""


class ZipAnswer(PiecesAnswer):
    """Sends the files one after the other. If one is deleted meanwhile, the zip ends in the
    middle."""

    def __init__(
        self, files: Sequence[tuple[KeptFile, Reader]], *, name: str, send_timeout_s: float
    ) -> None:
        self._files = files
        super().__init__(
            name=name,
            headers={
                "content-type": "application/zip",
                "content-disposition": attachment(f"{name}.zip"),
            },
            send_timeout_s=send_timeout_s,
        )

    def pieces(self) -> AsyncIterator[bytes]:
        """See `PiecesAnswer`."""
        return aiter(async_stream_zip(self._members()))

    async def _members(self) -> AsyncIterator[_Member]:
        for kept, read in self._files:
            size = kept.record.bytes
            made = datetime.fromtimestamp(kept.record.created_ms / 1000, UTC)
            yield zip_path(kept.path), made, _MODE, ZIP_AUTO(size, level=_LEVEL), read(0, size)


def zip_path(path: str) -> str:
    """A path that unpacks below the folder it is unpacked in, on any system."""
    parts = [_UNSAFE.sub("_", part).rstrip(" .") or "_" for part in path.split("/") if part]
    return "/".join(parts) or "_"
