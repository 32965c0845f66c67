"""Every test of this folder runs on a folder and on a real S3 server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.files.open import open_file_store
from infra.files.store import FileStore
from infra.runtime.settings import FileStoreSettings
from tests.fakes.s3_server import s3_server


@dataclass
class Shelf:
    """A file store, and what is really there."""

    files: FileStore
    again: Callable[[], FileStore]
    """The same place, opened by another program."""
    names: Callable[[], list[str]]
    unfinished: Callable[[], list[str]]


@pytest.fixture(params=["folder", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    if request.param == "folder":
        root = tmp_path / "files"

        def names() -> list[str]:
            return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())

        def opened() -> FileStore:
            return open_file_store(FileStoreSettings.model_validate({}), data_dir=tmp_path)

        yield Shelf(opened(), opened, names, lambda: [])
        return
    with s3_server() as server:
        settings = FileStoreSettings.model_validate(
            {"file_store": server.url, "file_store_options": server.options}
        )

        def opened() -> FileStore:
            return open_file_store(settings, data_dir=tmp_path)

        yield Shelf(opened(), opened, server.names, server.unfinished)
