"""What an agent is told of a file that came with a message. Pure.

A line says where the file is. Behind it comes what the model can read at once: a picture, a PDF
document, a text, as long as there is room. Anything else it reads with its tools.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from infra.wire.files.names import file_line
from infra.wire.turns import ContentBlock, DocumentBlock, FileBlock, ImageBlock, TextBlock

PICTURES_MAX = 100
"""Pictures that the CLI passes on of one conversation. It drops some of more, without a word."""
SHRUNK_ABOVE_BYTES, SHRUNK_ABOVE_PIXELS = 512_000, 2000
"""The CLI makes larger pictures smaller before the model sees them, and wider or higher ones."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The segments of a JPEG that say how large it is."""

MANY_PICTURES = (
    "This conversation has {count} pictures. The model sees {most} of them at most; the agent has "
    "all of them as files."
)
LARGE_PICTURES = (
    "Large pictures are made smaller for the model. The agent has them in full as files."
)

SentFile = ImageBlock | DocumentBlock | FileBlock


def files_in(blocks: Iterable[ContentBlock]) -> Iterator[SentFile]:
    """Those of the blocks that are files."""
    return (block for block in blocks if isinstance(block, SentFile) and not _is_elsewhere(block))


def size_of(file: SentFile) -> int:
    """Its bytes."""
    if isinstance(file, FileBlock):
        return file.bytes
    return len(file.data) * 3 // 4 - file.data[-2:].count("=")


def latest(files: Iterable[SentFile], *, most: int, most_bytes: int) -> list[SentFile]:
    """The last of the files, in their order, as many as have room."""
    left, found = most_bytes, list[SentFile]()
    for file in list(files)[: -most - 1 : -1]:
        if (left := left - size_of(file)) < 0:
            break
        found.append(file)
    return found[::-1]


@dataclass(frozen=True)
class LandedFile:
    """A file in the workspace."""

    path: str
    """In the container."""
    media_type: str
    bytes: int
    shown: ContentBlock | None = None
    """What the model sees of it at once."""

    @property
    def line(self) -> str:
        """Says where it is."""
        return file_line(self.path, self.bytes, self.media_type)


def told(
    blocks: Iterable[ContentBlock], landed: Mapping[int, LandedFile]
) -> tuple[ContentBlock, ...]:
    """The blocks with files as an agent gets them. `landed` has the files by the `id` of their
    block; one that is missing is left out."""
    return tuple(one for block in blocks for one in _told(block, landed.get(id(block))))


def are_fetched(blocks: Iterable[ContentBlock]) -> bool:
    """Whether the agent fetches any of them itself, before it begins."""
    return any(isinstance(block, SentFile) and _is_elsewhere(block) for block in blocks)


def _is_elsewhere(file: SentFile) -> bool:
    """Whether the agent fetches it itself."""
    return isinstance(file, FileBlock) and file.url is not None


def _told(block: ContentBlock, landed: LandedFile | None) -> Iterator[ContentBlock]:
    if not isinstance(block, SentFile) or _is_elsewhere(block):
        yield block
    elif landed is not None:
        if isinstance(landed.shown, TextBlock):
            yield TextBlock(text=f"{landed.line}\n{landed.shown.text}")
            return
        yield TextBlock(text=landed.line)
        if landed.shown is not None:
            yield landed.shown
    elif isinstance(block, FileBlock):
        name = "without a name" if block.filename is None else block.filename
        yield TextBlock(text=f"[Left out here: the file {name}]")
    else:
        yield block


def notices_for(
    prompt: Iterable[ContentBlock], pictures: int, *, prompt_pictures: int
) -> tuple[str, ...]:
    """What the user wants to know. `pictures` has the whole conversation, `prompt_pictures` of them
    its newest message."""
    notices = list[str]()
    if pictures > PICTURES_MAX and prompt_pictures:
        notices.append(MANY_PICTURES.format(count=pictures, most=PICTURES_MAX))
    if any(isinstance(one, ImageBlock) and _is_shrunk(one) for one in prompt):
        notices.append(LARGE_PICTURES)
    return tuple(notices)


def _is_shrunk(picture: ImageBlock) -> bool:
    if size_of(picture) > SHRUNK_ABOVE_BYTES:
        return True
    try:
        sides = sides_of(base64.b64decode(picture.data))
    except binascii.Error:
        return False
    return max(sides) > SHRUNK_ABOVE_PIXELS


def sides_of(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG, GIF or JPEG in pixels; zeros if they cannot be read."""
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if content.startswith(b"GIF8") and len(content) >= 10:
        return int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    at = 2
    while content.startswith(b"\xff\xd8") and at + 9 <= len(content) and content[at] == 0xFF:
        if content[at + 1] in _FRAMES:
            height, width = content[at + 5 : at + 7], content[at + 7 : at + 9]
            return int.from_bytes(width), int.from_bytes(height)
        at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4]))
    return 0, 0


def without_older_pictures(
    contents: list[tuple[ContentBlock, ...]], *, most: int
) -> list[tuple[ContentBlock, ...]]:
    """The contents, of whose pictures the last `most` are shown. The lines that name the files of
    the others stay."""
    left = most
    shown = list[tuple[ContentBlock, ...]]()
    for content in reversed(contents):
        kept = list[ContentBlock]()
        for block in reversed(content):
            if isinstance(block, ImageBlock):
                left -= 1
                if left < 0:
                    continue
            kept.append(block)
        shown.append(tuple(reversed(kept)))
    return shown[::-1]
