"""What the catalogue's log says, one record an object. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from infra.releases.versions import VersionKey, version_key

RECORD_MAX_BYTES = 32 * 1024
TENANTS_MAX = 200
MESSAGE_MAX_CHARS = 500

Tenant = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{20}$")]


class EntryKind(StrEnum):
    """What is published."""

    SERVER = "server"
    AGENT = "agent"


class EntryStatus(StrEnum):
    """What an operator says about a version."""

    ACTIVE = "active"
    DEPRECATED = "deprecated"
    DELETED = "deleted"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] = "0" * 16
    """Tells its writer whether it was this record that was stored, or another one."""
    at_ms: Annotated[int, Field(ge=0)]
    kind: EntryKind
    name: Annotated[str, Field(min_length=1, max_length=200)]
    version: Annotated[str, Field(min_length=1, max_length=255)]


class PublishedVersion(_Record):
    """A version is there from now on."""

    type: Literal["published"] = "published"
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = "0" * 64
    """SHA-256 of its contents, which are an object of that name."""
    bytes: Annotated[int, Field(ge=0)] = 0
    title: Annotated[str, Field(max_length=200)] = ""
    description: Annotated[str, Field(max_length=1000)] = ""
    tenants: Annotated[tuple[Tenant, ...], Field(max_length=TENANTS_MAX)] = ()
    """Who may see it; empty for all."""


class StatusChanged(_Record):
    """A version has another status from now on."""

    type: Literal["status"] = "status"
    status: EntryStatus
    message: Annotated[str, Field(max_length=MESSAGE_MAX_CHARS)] = ""


CatalogueRecord = Annotated[PublishedVersion | StatusChanged, Field(discriminator="type")]


@dataclass(frozen=True)
class CatalogueEntry:
    """One version in the catalogue."""

    published: PublishedVersion
    number: int
    """The place of its record in the log."""
    status: EntryStatus = EntryStatus.ACTIVE
    message: str = ""
    changed_ms: int = 0

    @property
    def order(self) -> tuple[bool, VersionKey, int]:
        """Sorts the versions of one name: those of the form 1.2.3 by their numbers and behind all
        others, which stand as they were published."""
        key = version_key(self.published.version)
        return (key is not None, key or (), self.number)

    @property
    def updated_ms(self) -> int:
        return max(self.published.at_ms, self.changed_ms)

    def is_for(self, tenant: str | None) -> bool:
        """Whether this tenant may see it; None for somebody without a key."""
        return not self.published.tenants or tenant in self.published.tenants
