"""Opens the file store that the settings name."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from infra.files.store import CALL_TIMEOUT_S, FileStore
from infra.runtime.settings import FileStoreSettings, SettingsRefused

RETRY_S = 20.0
"""Seconds within which a failed request to an object store is sent again."""


def open_file_store(settings: FileStoreSettings, *, data_dir: Path) -> FileStore:
    """The store of `AGCLUSTER_FILE_STORE`, or a folder in the data folder. Connects on first use.

    Raises `SettingsRefused`.
    """
    url = settings.file_store
    if url is None:
        return _folder(data_dir / "files", is_ours=True)
    parts = urlsplit(url)
    if parts.scheme == "file":
        return _folder(Path(parts.path), is_ours=False)
    options = settings.file_store_credentials()
    try:
        return _object_store(url, options)
    except (BaseError, ValueError, TypeError) as error:
        told = next(iter(str(error).splitlines()), "")
        for value in options.values():  # Some of them are secrets.
            told = told.replace(value, "…")
        raise SettingsRefused(
            f"AGCLUSTER_FILE_STORE or AGCLUSTER_FILE_STORE_OPTIONS: {told}"
        ) from None


def _folder(folder: Path, *, is_ours: bool) -> FileStore:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_ours:
            # Somebody may have made it for us. Nobody else on this machine reads callers' files.
            with suppress(PermissionError):
                folder.chmod(0o700)
        objects = LocalStore(folder)
    except (BaseError, OSError, ValueError) as error:
        raise SettingsRefused(f"AGCLUSTER_FILE_STORE: {folder}: {error}") from None
    return FileStore(objects, is_local=True, place=str(folder))


def _object_store(url: str, options: dict[str, str]) -> FileStore:
    endpoint = next((value for name, value in options.items() if "endpoint" in name), "")
    objects = from_url(
        url,
        config=options,  # type: ignore[call-overload]  # which names there are is the store's to say
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=CALL_TIMEOUT_S),
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=RETRY_S)},
    )
    parts = urlsplit(url)
    return FileStore(objects, is_local=False, place=f"{parts.scheme}://{parts.netloc}{parts.path}")
