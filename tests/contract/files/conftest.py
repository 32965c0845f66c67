"""Every test of this folder runs on a folder and on S3 servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.files.open import open_file_store
from infra.files.store import FileStore
from infra.runtime.settings import FileStoreSettings
from tests.fakes.s3_server import bucket_at, s3_server, weed_server


@dataclass
class Shelf:
    """A file store, and what is really there."""

    files: FileStore
    again: Callable[[], FileStore]
    """The same place, opened by another program."""
    names: Callable[[], list[str]]
    unfinished: Callable[[], list[str]]


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with weed_server(tmp_path_factory.mktemp("weed")) as endpoint:
        yield endpoint


SEAWEEDFS = pytest.param("seaweedfs", marks=[pytest.mark.weed, pytest.mark.slow])


@pytest.fixture(params=["folder", "moto", SEAWEEDFS])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    if request.param == "folder":
        root = tmp_path / "files"

        def names() -> list[str]:
            return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())

        def opened() -> FileStore:
            return open_file_store(FileStoreSettings.model_validate({}), data_dir=tmp_path)

        yield Shelf(opened(), opened, names, lambda: [])
        return
    with ExitStack() as held:
        if request.param == "moto":
            server = held.enter_context(s3_server())
        else:
            server = held.enter_context(bucket_at(request.getfixturevalue("weed")))
        settings = FileStoreSettings.model_validate(
            {"file_store": server.url, "file_store_options": server.options}
        )

        def opened() -> FileStore:
            return open_file_store(settings, data_dir=tmp_path)

        yield Shelf(opened(), opened, server.names, server.unfinished)
