"""The JSON of `/v1/files` and `/v1/uploads`, for callers and for the OpenAPI document.

OpenAI's, so that its clients read it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, Field

from infra.store.files.uploads import UploadStatus

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


class File(BaseModel):
    """A file that is kept. Times in Unix seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = Field(description="When it is deleted; null: not by itself.")
    filename: str = Field(description="As its sender called it.")
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """A deleted file."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class Upload(BaseModel):
    """A file that comes in parts. Times in Unix seconds."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int = Field(description="Of the whole file, as announced.")
    created_at: int
    expires_at: int = Field(description="Until when it takes parts.")
    filename: str
    purpose: str
    status: UploadStatus
    file: File | None = Field(description="What it made.")


class UploadPart(BaseModel):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class ExpiresAfter(msgspec.Struct, frozen=True):
    """When a file is deleted by itself."""

    anchor: str
    seconds: Annotated[int, msgspec.Meta(ge=3600, le=2_592_000)]


class NewUploadBody(msgspec.Struct, frozen=True):
    """What `POST /v1/uploads` is sent."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    filename: Annotated[str, msgspec.Meta(min_length=1)]
    purpose: Purpose
    mime_type: Annotated[str, msgspec.Meta(max_length=255)] = ""
    expires_after: ExpiresAfter | None = None


class CompleteUploadBody(msgspec.Struct, frozen=True):
    """What `POST /v1/uploads/{id}/complete` is sent."""

    part_ids: Annotated[list[str], msgspec.Meta(max_length=10_000)]
    md5: str | None = None
