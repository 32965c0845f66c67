"""The parts of a message as blocks for an agent.

Text is text. Data is text, too: JSON, fenced. A file comes inline (`raw`), or by a URL: that of a
file of the caller's own at `/v1/files`, or any other if the deployment lets its agents fetch them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from a2a.types import Part
from google.protobuf.json_format import MessageToDict

from api.files.blocks import file_at_url, raw_file, stored_file
from api.files.given import FileBounds, find_files
from api.files.stored_files import StoredFiles
from api.http.auth import Caller
from infra.store.files.files import FileRecord
from infra.wire.errors import RequestRefused
from infra.wire.text.words import Case, refused
from infra.wire.turns import ContentBlock, TextBlock

_EXACT_BELOW = 2**53
_OWN_FILE = re.compile(r"(?:/v1/files/)?(file-[0-9a-f]{32})(?:/content)?")


class PartReader:
    """Reads parts, with the files that they name."""

    def __init__(self, stored: StoredFiles, *, bounds: FileBounds) -> None:
        self._stored = stored
        self._bounds = bounds

    async def read(
        self, parts: Sequence[Part], caller: Caller, *, base_url: str
    ) -> tuple[ContentBlock, ...]:
        """The blocks. Raises `RequestRefused`, naming the part, and `StoreUnavailable`."""
        files = [part for part in parts if part.WhichOneof("content") in ("raw", "url")]
        if len(files) > self._bounds.files_max:
            raise refused(Case.REQUEST_FILES, files=self._bounds.files_max, param="message.parts")
        named = [id for part in files if (id := own_file(part.url, base_url=base_url))]
        known = await find_files(
            dict.fromkeys(named), (), caller, self._stored, bounds=self._bounds
        )
        return tuple(self._blocks(parts, known, base_url=base_url))

    def _blocks(
        self, parts: Sequence[Part], known: Mapping[str, FileRecord], *, base_url: str
    ) -> Iterator[ContentBlock]:
        for i, part in enumerate(parts):
            where = f"message.parts[{i}]"
            filename = part.filename or None
            match part.WhichOneof("content"):
                case "text":
                    if part.text.strip():
                        yield TextBlock(text=part.text)
                case "data":
                    told = _json_of(part, where=f"{where}.data")
                    yield TextBlock(text=f"```json\n{told}\n```")
                case "raw":
                    if not part.raw:
                        raise RequestRefused("The file is empty.", param=f"{where}.raw")
                    yield raw_file(part.media_type.strip().lower(), part.raw).block(filename)
                case "url" if id := own_file(part.url, base_url=base_url):
                    if (record := known.get(id)) is None:
                        raise RequestRefused(
                            "There is no file with this id, or no longer. Upload it to /v1/files.",
                            param=f"{where}.url",
                        )
                    yield stored_file(record)
                case "url":
                    yield file_at_url(
                        part.url,
                        f"{where}.url",
                        filename=filename,
                        are_urls_fetched=self._bounds.are_urls_fetched,
                    )
                case _:
                    raise RequestRefused(
                        "A part has one of `text`, `raw`, `url` and `data`.", param=where
                    )


def own_file(url: str, *, base_url: str) -> str | None:
    """The id, if this is the URL of a file at `/v1/files` of this API, or the id itself."""
    found = _OWN_FILE.fullmatch(url.removeprefix(base_url))
    return found[1] if found else None


def _json_of(part: Part, *, where: str) -> str:
    told = _plain(MessageToDict(part)["data"], where=where)
    return json.dumps(told, ensure_ascii=False, indent=2)


def _plain(value: Any, *, where: str) -> Any:
    """All numbers arrive as floats, which tell whole numbers apart up to 2^53 only.

    Raises `RequestRefused` for a larger one: it would reach the agent as another one.
    """
    if isinstance(value, dict):
        return {name: _plain(one, where=where) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, where=where) for one in value]
    if isinstance(value, float) and abs(value) >= _EXACT_BELOW:
        raise RequestRefused(
            "A number in `data` is 2^53 or more: send it as a string.", param=where
        )
    return int(value) if isinstance(value, float) and value.is_integer() else value
