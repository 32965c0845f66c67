"""The catalogue keeps its promises on every file store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from infra.registry.catalogue import Catalogue
from infra.registry.entries import CatalogueQuery, NoSuchCursor
from infra.registry.records import EntryKind, EntryStatus, PublishedVersion, StatusChanged
from infra.releases.refused import ReleaseRefused
from infra.runtime.clock import SystemClock
from infra.wire.errors import FileGone
from tests.contract.files.conftest import Shelf

MINE, THEIRS = "1" * 20, "2" * 20
EVERYONES = CatalogueQuery(kind=EntryKind.SERVER, tenant=None)


def opened(shelf: Shelf) -> Catalogue:
    return Catalogue(shelf.again(), SystemClock())


def version(name: str, number: str, *, at_ms: int = 1, **more: object) -> PublishedVersion:
    told = {"kind": "server", "name": name, "version": number, "at_ms": at_ms, **more}
    return PublishedVersion.model_validate(told)


async def names(catalogue: Catalogue, query: CatalogueQuery = EVERYONES) -> list[str]:
    await catalogue.look(every_s=0)
    found, _ = await catalogue.page(query, limit=1000)
    return [f"{one.entry.published.name}@{one.entry.published.version}" for one in found]


async def test_what_one_program_publishes_every_program_sees(shelf: Shelf) -> None:
    here, there = opened(shelf), opened(shelf)
    assert await names(there) == []
    await here.publish(version("org.a/x", "1.0.0"), b"one")
    await there.publish(version("org.a/x", "1.1.0"), b"two")
    assert await names(here) == await names(there) == ["org.a/x@1.0.0", "org.a/x@1.1.0"]
    found = await there.one(EVERYONES, "org.a/x", "latest")
    assert found is not None
    assert await here.content(found.entry) == b"two"


async def test_a_version_never_changes(shelf: Shelf) -> None:
    here, there = opened(shelf), opened(shelf)
    first = await here.publish(version("org.a/x", "1.0.0"), b"one")
    assert (await there.publish(version("org.a/x", "1.0.0", at_ms=9), b"one")) == first
    with pytest.raises(ReleaseRefused, match="a version never changes"):
        await there.publish(version("org.a/x", "1.0.0"), b"other")
    assert await there.content(first) == b"one"
    for close in ("org.A/x", "org.a/X"):
        with pytest.raises(ReleaseRefused, match="looks like org"):
            await there.publish(version(close, "1.0.0"), b"one")


async def test_many_publish_at_once_and_each_takes_a_place_of_its_own(shelf: Shelf) -> None:
    programs = [opened(shelf) for _ in range(6)]
    await asyncio.gather(
        *(one.publish(version(f"org.a/x{n}", "1.0.0"), b"%d" % n) for n, one in enumerate(programs))
    )
    told = [await names(one) for one in programs]
    assert told == [[f"org.a/x{n}@1.0.0" for n in range(6)]] * 6
    outcomes = await asyncio.gather(
        *(one.publish(version("org.a/same", "1.0.0"), b"%d" % n) for n, one in enumerate(programs)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, ReleaseRefused) for outcome in outcomes) == 5


async def test_pages_have_everything_once_in_order(shelf: Shelf) -> None:
    here = opened(shelf)
    for name in ("c", "a", "b"):
        for number in ("1.0.0", "2.0.0", "1.5.0"):
            await here.publish(version(f"org/{name}", number), b"x")
    everything = await names(here)
    assert len(everything) == 9
    for size in (1, 2, 4, 9):
        found: list[str] = []
        after: str | None = None
        while True:
            page, after = await here.page(EVERYONES, after=after, limit=size)
            assert len(page) <= size
            found += [f"{o.entry.published.name}@{o.entry.published.version}" for o in page]
            if after is None:
                break
        assert found == everything
    for odd in ("", "x", "org/a:", "org/a:x", "org/a:-1", "org/a:" + "9" * 30):
        with pytest.raises(NoSuchCursor):
            await here.page(EVERYONES, after=odd, limit=1)


async def test_who_may_not_see_a_version_sees_another_latest(shelf: Shelf) -> None:
    here = opened(shelf)
    await here.publish(version("org/a", "1.0.0"), b"x")
    await here.publish(version("org/a", "2.0.0", tenants=(MINE,)), b"y")
    await here.publish(version("org/secret", "1.0.0", tenants=(MINE,)), b"z")
    mine, theirs = replace(EVERYONES, tenant=MINE), replace(EVERYONES, tenant=THEIRS)
    assert await names(here, mine) == ["org/a@1.0.0", "org/a@2.0.0", "org/secret@1.0.0"]
    for query in (theirs, EVERYONES):
        assert await names(here, query) == ["org/a@1.0.0"]
        assert await here.one(query, "org/a", "2.0.0") is None
        assert await here.versions(query, "org/secret") == []
    assert await names(here, replace(mine, version="latest")) == [
        "org/a@2.0.0",
        "org/secret@1.0.0",
    ]
    assert await names(here, replace(theirs, version="latest")) == ["org/a@1.0.0"]


async def test_questions_are_answered_as_the_public_registry_does(shelf: Shelf) -> None:
    here = opened(shelf)
    await here.publish(version("org/weather", "1.0.0", at_ms=10), b"x")
    await here.publish(version("org/weather", "1.10.0", at_ms=20), b"y")
    await here.publish(version("org/weather", "1.9.0", at_ms=30), b"z")
    await here.publish(version("org/files", "1.0.0", at_ms=40), b"f")
    assert await names(here, replace(EVERYONES, search="WEATH", version="latest")) == [
        "org/weather@1.10.0"
    ]
    assert await names(here, replace(EVERYONES, version="1.9.0")) == ["org/weather@1.9.0"]
    assert await names(here, replace(EVERYONES, updated_since_ms=30)) == [
        "org/files@1.0.0",
        "org/weather@1.9.0",
    ]
    newest = [one.entry.published.version for one in await here.versions(EVERYONES, "org/weather")]
    assert newest == ["1.10.0", "1.9.0", "1.0.0"]


async def test_a_version_that_is_withdrawn_is_the_latest_no_more(shelf: Shelf) -> None:
    here, there = opened(shelf), opened(shelf)
    await here.publish(version("org/a", "1.0.0"), b"x")
    await here.publish(version("org/a", "2.0.0"), b"y")
    change = StatusChanged(
        at_ms=50, kind=EntryKind.SERVER, name="org/a", version="2.0.0", status=EntryStatus.DELETED
    )
    await there.set_status(change)
    assert await names(here) == ["org/a@1.0.0"]
    found = await here.one(EVERYONES, "org/a", "latest")
    assert found is not None
    assert found.entry.published.version == "1.0.0"
    withdrawn = replace(EVERYONES, updated_since_ms=50, with_deleted=True)
    assert await names(here, withdrawn) == ["org/a@2.0.0"]
    with pytest.raises(ReleaseRefused, match="there is no org/a 3"):
        await there.set_status(change.model_copy(update={"version": "3"}))


async def test_contents_that_were_exchanged_are_not_given_out(shelf: Shelf) -> None:
    entry = await opened(shelf).publish(version("org/a", "1.0.0"), b"good")
    files, digest = shelf.again(), entry.published.digest
    await files.delete(f"registry/contents/{digest[:2]}/{digest}")
    with pytest.raises(FileGone):
        await opened(shelf).content(entry)
    await files.put_new(f"registry/contents/{digest[:2]}/{digest}", b"evil")
    with pytest.raises(FileGone):
        await opened(shelf).content(entry)


async def test_a_record_that_cannot_be_read_stops_nothing(shelf: Shelf) -> None:
    here = opened(shelf)
    await here.publish(version("org/a", "1.0.0"), b"x")
    await shelf.again().put_new("registry/log/000000000002", b'{"type": "of another version"}')
    await here.publish(version("org/b", "1.0.0"), b"x")
    assert await names(opened(shelf)) == ["org/a@1.0.0", "org/b@1.0.0"]
