"""The names of objects: made of ids only."""

from __future__ import annotations

from infra.wire.ids import FileId, file_meant

FOLDER = "files"


def shards() -> list[str]:
    """The folders in which files are: 256, by the end of their ids."""
    return [f"{FOLDER}/{n:02x}" for n in range(256)]


def object_name(file: FileId) -> str:
    """Where a file's bytes are."""
    return f"{FOLDER}/{file[-2:]}/{file}"


def file_of(name: str) -> FileId | None:
    """The file whose bytes are there; None if the name is none of ours."""
    file = file_meant(name.rpartition("/")[2])
    return file if file is not None and object_name(file) == name else None
