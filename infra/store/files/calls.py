"""Arguments and answers of the scripts for files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from infra.store.server.calls import Call
from infra.store.server.replies import Answer, OkAnswer
from infra.wire.ids import FileId, TenantId, UploadId


class BeginFileAnswer(Answer, frozen=True):
    outcome: Literal["ok", "many", "much"]


class BeginFileCall(Call[BeginFileAnswer], frozen=True):
    file: FileId
    tenant: TenantId
    store: str
    bytes: int
    files_max: int
    bytes_max: int
    alive_ms: int


class GrowFileAnswer(Answer, frozen=True):
    outcome: Literal["ok", "much", "gone"]


class GrowFileCall(Call[GrowFileAnswer], frozen=True):
    file: FileId
    bytes: int
    bytes_max: int
    alive_ms: int


class KeepFileAnswer(Answer, frozen=True):
    outcome: Literal["ok", "gone", "closed"]
    created_ms: int = 0
    expires_ms: int | None = None


class KeepFileCall(Call[KeepFileAnswer], frozen=True):
    file: FileId
    name: bytes
    type: str
    purpose: str
    digest: str
    bytes: int
    life_ms: int | None
    parts: Sequence[FileId]


class DropFileAnswer(Answer, frozen=True):
    outcome: Literal["ok", "none"]


class DropFileCall(Call[DropFileAnswer], frozen=True):
    file: FileId
    tenant: TenantId | None
    again_ms: int


class ForgetFileCall(Call[OkAnswer], frozen=True):
    file: FileId


class NoteMadeAnswer(Answer, frozen=True):
    outcome: Literal["ok", "gone"]


class NoteMadeCall(Call[NoteMadeAnswer], frozen=True):
    file: FileId
    path: bytes
    most: int
    life_ms: int


class DueFilesAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    found: Sequence[FileId]


class DueFilesCall(Call[DueFilesAnswer], frozen=True):
    most: int
    again_ms: int


class BeginUploadAnswer(Answer, frozen=True):
    outcome: Literal["ok", "many"]
    created_ms: int = 0
    expires_ms: int = 0


class BeginUploadCall(Call[BeginUploadAnswer], frozen=True):
    upload: UploadId
    tenant: TenantId
    name: bytes
    bytes: int
    purpose: str
    type: str
    life: str
    open_ms: int
    shown_ms: int
    most: int


class KeepPartAnswer(Answer, frozen=True):
    outcome: Literal["ok", "gone", "closed", "much"]
    created_ms: int = 0


class KeepPartCall(Call[KeepPartAnswer], frozen=True):
    file: FileId
    bytes: int
    slack_ms: int


class CloseUploadAnswer(Answer, frozen=True):
    outcome: Literal["ok", "closed"]
    parts: Sequence[FileId] = ()


class CloseUploadCall(Call[CloseUploadAnswer], frozen=True):
    again_ms: int


class SeeFileStoreAnswer(Answer, frozen=True):
    outcome: Literal["ok"]
    others: Sequence[str]


class SeeFileStoreCall(Call[SeeFileStoreAnswer], frozen=True):
    store: str
    alive_ms: int
