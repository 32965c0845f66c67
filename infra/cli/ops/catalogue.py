"""An operator's access to the catalogue of agents and MCP servers, through the file store.

The command has the deployment's settings, and with them the right to write to its store; it needs
neither the API nor Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from infra.cli.ops.cluster import USAGE_ERROR, at, print_json, print_table
from infra.cli.terminal import say
from infra.files.open import open_file_store
from infra.profiles.places import ProfileRefused
from infra.registry.catalogue import Catalogue
from infra.registry.entries import CatalogueQuery, FoundEntry
from infra.registry.records import EntryKind
from infra.registry.remote import RemoteRegistry
from infra.runtime.clock import SystemClock
from infra.runtime.settings import Settings, SettingsRefused, load_settings
from infra.wire.errors import AgClusterError

T = TypeVar("T")

From = Annotated[
    str | None,
    typer.Option("--from", help="Another registry's URL [default: this deployment's]."),
]
KeyFile = Annotated[
    Path | None, typer.Option(help="A file with the API key for that registry, if it wants one.")
]

LISTED_MAX = 10_000


@contextmanager
def told_to_the_operator() -> Iterator[None]:
    """Ends the command with a message for what the operator can mend."""
    try:
        yield
    except SettingsRefused as error:
        say(f"agcluster: {error}", is_error=True)
        raise typer.Exit(USAGE_ERROR) from None
    except ProfileRefused as refused:
        for fault in refused.faults:
            say(fault, is_error=True)
        raise typer.Exit(1) from None
    except AgClusterError as error:
        say(f"agcluster: {error}", is_error=True)
        raise typer.Exit(1) from None
    except OSError as error:
        say(f"agcluster: {error.filename}: {error.strerror}", is_error=True)
        raise typer.Exit(1) from None


def with_catalogue(settings: Settings, work: Callable[[Catalogue], Awaitable[T]]) -> T:
    """Run `work` on the deployment's catalogue."""

    async def run() -> T:
        files = open_file_store(settings, data_dir=settings.data_dir)
        return await work(Catalogue(files, SystemClock()))

    return asyncio.run(run())


def elsewhere(url: str, key_file: Path | None) -> RemoteRegistry:
    """Raises `ReleaseRefused` and `OSError`."""
    return RemoteRegistry(url, key=key_file.read_text().strip() if key_file else None)


def operators_query(kind: EntryKind, **wanted: object) -> CatalogueQuery:
    """A question of somebody who may see everything."""
    return CatalogueQuery(kind=kind, tenant=None, sees_all=True, **wanted)  # type: ignore[arg-type]


def show_found(kind: EntryKind, words: str, *, everything: bool, as_json: bool) -> None:
    """Print the entries whose names have these words in them; `everything`: all versions."""
    with told_to_the_operator():
        settings = load_settings()
        query = operators_query(kind, search=words, version=None if everything else "latest")

        async def work(catalogue: Catalogue) -> list[FoundEntry]:
            return (await catalogue.page(query, limit=LISTED_MAX))[0]

        found = with_catalogue(settings, work)
    if as_json:
        print_json([_facts(one) for one in found])
        return
    print_table(
        ("name", "version", "published", "for", "description"),
        (
            (
                one.entry.published.name,
                one.entry.published.version + _note(one),
                at(one.entry.published.at_ms),
                f"{len(one.entry.published.tenants)} tenants"
                if one.entry.published.tenants
                else "all",
                one.entry.published.description,
            )
            for one in found
        ),
    )


def _note(one: FoundEntry) -> str:
    return "" if one.entry.status == "active" else f" ({one.entry.status})"


def _facts(one: FoundEntry) -> dict[str, object]:
    told = one.entry.published.model_dump(mode="json", exclude={"id", "type"})
    return {**told, "status": one.entry.status, "is_latest": one.is_latest}
