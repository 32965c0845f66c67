"""Where files are kept, and how many."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from infra.runtime.settings.types import Section

SCHEMES = ("file", "s3", "gs", "az")


class FileStoreSettings(Section):
    """The store of files' bytes."""

    title: ClassVar = "The file store"

    file_store: str | None = Field(
        None,
        description="Where files are kept: s3://bucket/prefix, gs://bucket/prefix, "
        "az://container/prefix (with the option account_name), or file:///folder. Unset: the "
        "folder `files` in the data folder, which only programs of this machine see.",
    )
    file_store_options: SecretStr | None = Field(
        None,
        description="Options of the object store as pairs: region, endpoint (an http:// one is "
        "allowed), access_key_id, secret_access_key, and whatever else `obstore` knows. Its usual "
        "environment variables (AWS_…, GOOGLE_…, AZURE_…) are read as well.",
    )

    @field_validator("file_store")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in SCHEMES or not (parts.netloc or parts.scheme == "file"):
            raise ValueError(f"must begin with one of {', '.join(f'{s}://' for s in SCHEMES)}")
        if parts.scheme == "file" and (parts.netloc or len(parts.path) < 2):
            raise ValueError("a folder is file:/// and its absolute path")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("keys and options belong in AGCLUSTER_FILE_STORE_OPTIONS")
        return value

    @field_validator("file_store_options")
    @classmethod
    def _pairs(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _parsed(value.get_secret_value())
        return value

    def file_store_credentials(self) -> dict[str, str]:
        """The options by their names. Contains secrets."""
        given = self.file_store_options
        return {} if given is None else _parsed(given.get_secret_value())


class FileSettings(Section):
    """Limits of what callers keep in the file store."""

    title: ClassVar = "Files"

    file_max_bytes: int = Field(512 * 1024 * 1024, gt=0, description="Largest file; beyond it 413.")
    tenant_files_max: int = Field(
        10_000,
        ge=0,
        description="Files of one key, including those that are being uploaded and the parts of "
        "uploads; beyond it 413. 0: no limit.",
    )
    tenant_file_bytes_max: int = Field(
        10 * 1024 * 1024 * 1024,
        ge=0,
        description="Their bytes together; beyond it 413. 0: no limit.",
    )
    artifacts_max: int = Field(
        50,
        ge=0,
        le=200,
        description="Files that one turn made or changed and that are kept for its user, those in "
        "`outputs` first. 0: none are kept.",
    )
    artifact_bytes_max: int = Field(
        256 * 1024 * 1024, gt=0, description="Their bytes together; what does not fit is named."
    )
    artifact_keep_s: float = Field(
        20.0,
        gt=0,
        le=300,
        description="Longest time in which they are kept, which delays the end of the answer.",
    )
    artifact_life_s: float = Field(
        7 * 86_400.0,
        ge=60,
        description="How long they are kept, and their links work. Deleting the conversation "
        "deletes them.",
    )
    request_files_max: int = Field(
        50,
        gt=0,
        description="Files that one message may carry, inline or by their ids; beyond it 400. The "
        "files of the messages before it do not count.",
    )
    request_file_bytes_max: int = Field(
        1024 * 1024 * 1024,
        gt=0,
        description="Their bytes together, as far as they are named by their ids; beyond it 413.",
    )
    fetch_urls: bool = Field(
        False,
        description="Let messages name pictures and files by http and https URLs: the agent "
        "fetches them into its workspace, in its sandbox and through its egress policy. Off: such "
        "a message is 400.",
    )


def _parsed(text: str) -> dict[str, str]:
    """`a=b, c=d`. Raises `ValueError`, which does not quote the text."""
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if not all(found and name.strip() for name, found, _ in pairs):
        raise ValueError("must be pairs: `region=eu-central-1, endpoint=https://…`")
    return {name.strip(): value.strip() for name, _, value in pairs}
