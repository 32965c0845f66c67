"""The catalogue in memory: what the log has said so far, and what it answers. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, replace

from infra.registry.records import (
    CatalogueEntry,
    EntryKind,
    EntryStatus,
    PublishedVersion,
    StatusChanged,
)
from infra.releases.refused import ReleaseRefused


class NoSuchCursor(Exception):
    """It is no cursor of ours."""


@dataclass(frozen=True)
class CatalogueQuery:
    """What is asked for."""

    kind: EntryKind
    tenant: str | None
    """Who asks; None for somebody without a key."""
    sees_all: bool = False
    """It is an operator."""
    search: str = ""
    """A part of the name, in letters of any size."""
    version: str | None = None
    """`latest`, or one version."""
    updated_since_ms: int | None = None
    with_deleted: bool = False


@dataclass(frozen=True)
class FoundEntry:
    """One version, and whether it is the latest that its reader may see."""

    entry: CatalogueEntry
    is_latest: bool


class CatalogueEntries:
    """All versions by name. Takes the log's records in order."""

    def __init__(self) -> None:
        self.read_to = 0
        """The number of the newest record."""
        self._names: dict[EntryKind, list[str]] = {kind: [] for kind in EntryKind}
        self._entries: dict[EntryKind, dict[str, list[CatalogueEntry]]] = {
            kind: {} for kind in EntryKind
        }
        self._spellings: dict[tuple[EntryKind, str], str] = {}
        self._ids: set[str] = set()

    def take(self, record: PublishedVersion | StatusChanged | None, number: int) -> None:
        """The next record; None for one that could not be read."""
        self.read_to = number
        if isinstance(record, PublishedVersion):
            self._ids.add(record.id)
            self._add(record, number)
        elif isinstance(record, StatusChanged):
            self._ids.add(record.id)
            self._change(record)

    def has_read(self, record: PublishedVersion | StatusChanged) -> bool:
        """Whether it was this record, and not another one like it."""
        return record.id in self._ids

    def same(self, new: PublishedVersion) -> CatalogueEntry | None:
        """The version, if it is there with these contents and for these tenants."""
        for entry in self._entries[new.kind].get(new.name, ()):
            known = entry.published
            if (known.version, known.digest, known.tenants) == (
                new.version,
                new.digest,
                new.tenants,
            ):
                return entry
        return None

    def require_new(self, new: PublishedVersion) -> None:
        """Raises `ReleaseRefused` if the version is there, or a name that looks the same."""
        other = self._spellings.get((new.kind, _looks(new.name)), new.name)
        if other != new.name:
            raise ReleaseRefused(f"{new.name} looks like {other}, which is published already")
        if any(
            entry.published.version == new.version
            for entry in self._entries[new.kind].get(new.name, ())
        ):
            raise ReleaseRefused(
                f"{new.name} {new.version} is published already, and a version never changes: give "
                "the next one"
            )

    def require_known(self, change: StatusChanged) -> None:
        """Raises `ReleaseRefused` if there is no such version."""
        if not any(
            entry.published.version == change.version
            for entry in self._entries[change.kind].get(change.name, ())
        ):
            raise ReleaseRefused(f"there is no {change.name} {change.version}")

    def page(
        self, query: CatalogueQuery, *, after: str | None, limit: int
    ) -> tuple[list[FoundEntry], str | None]:
        """The versions that are asked for, by name, and the cursor of the next page. Raises
        `NoSuchCursor`."""
        found: list[FoundEntry] = []
        for one in self._matching(query, after):
            if len(found) == limit:
                last = found[-1].entry
                return found, f"{last.published.name}:{last.number}"
            found.append(one)
        return found, None

    def versions(self, query: CatalogueQuery, name: str) -> list[FoundEntry]:
        """All versions of one name, the newest first."""
        return sorted(self._of(query, name), key=lambda one: one.entry.order, reverse=True)

    def one(self, query: CatalogueQuery, name: str, version: str) -> FoundEntry | None:
        """One version, or `latest`."""
        for found in self._of(query, name):
            if found.is_latest if version == "latest" else found.entry.published.version == version:
                return found
        return None

    def _add(self, record: PublishedVersion, number: int) -> None:
        of_name = self._entries[record.kind].get(record.name)
        if of_name is None:
            of_name = self._entries[record.kind][record.name] = []
            insort(self._names[record.kind], record.name)
            self._spellings.setdefault((record.kind, _looks(record.name)), record.name)
        if all(entry.published.version != record.version for entry in of_name):
            of_name.append(CatalogueEntry(record, number))

    def _change(self, record: StatusChanged) -> None:
        of_name = self._entries[record.kind].get(record.name, [])
        for at, entry in enumerate(of_name):
            if entry.published.version == record.version:
                of_name[at] = replace(
                    entry, status=record.status, message=record.message, changed_ms=record.at_ms
                )

    def _matching(self, query: CatalogueQuery, after: str | None) -> Iterator[FoundEntry]:
        names = self._names[query.kind]
        name, number = _read_cursor(after) if after is not None else ("", 0)
        wanted = query.search.lower()
        for at in range(bisect_left(names, name), len(names)):
            if wanted in names[at].lower():
                for one in self._of(query, names[at]):
                    is_behind = names[at] != name or one.entry.number > number
                    if is_behind and _is_asked_for(one, query):
                        yield one

    def _of(self, query: CatalogueQuery, name: str) -> list[FoundEntry]:
        seen = [
            entry
            for entry in self._entries[query.kind].get(name, ())
            if (query.sees_all or entry.is_for(query.tenant))
            and (query.with_deleted or entry.status is not EntryStatus.DELETED)
        ]
        there = [entry for entry in seen if entry.status is not EntryStatus.DELETED]
        latest = max(there, key=lambda entry: entry.order, default=None)
        return [FoundEntry(entry, entry is latest) for entry in seen]


def _read_cursor(cursor: str) -> tuple[str, int]:
    name, found, number = cursor.rpartition(":")
    if not found or not number.isdecimal() or len(number) > 12:
        raise NoSuchCursor
    return name, int(number)


def _is_asked_for(one: FoundEntry, query: CatalogueQuery) -> bool:
    if query.version == "latest" and not one.is_latest:
        return False
    if query.version not in (None, "latest", one.entry.published.version):
        return False
    return query.updated_since_ms is None or one.entry.updated_ms >= query.updated_since_ms


def _looks(name: str) -> str:
    """What a person takes a name for: letters of one size, and one kind of sign between them."""
    return name.lower().replace("_", "-").replace(".", "-")
