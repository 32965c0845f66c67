"""An operator's access to the cluster's state, through the same store as the programs'.

Finds Redis by `AGCLUSTER_REDIS_URL`, otherwise that of an `agcluster up` on this machine. Sees all
tenants; needs neither the API nor a caller's key.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from infra.cli.terminal import say
from infra.cli.up.redis_server import socket_url
from infra.cli.up.state_dir import StateDir
from infra.runtime.settings import PREFIX, Settings, SettingsRefused, load_settings
from infra.store.conversations.conversations import ConversationRecord
from infra.store.open import Store, open_store
from infra.store.server.connection import is_refused
from infra.wire.errors import AgClusterError, ConversationNotFound, StoreUnavailable
from infra.wire.ids import ConversationKey
from infra.wire.text.foreign import escaped

USAGE_ERROR = 2

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs to read.")]


class AmbiguousName(AgClusterError):
    """Several conversations have this label; the message lists their keys."""


def with_store(work: Callable[[Store, Settings], Awaitable[None]]) -> None:
    """Run `work` on the cluster's store. Ends the command if that is not possible."""
    try:
        settings = _reachable(load_settings())
    except SettingsRefused as error:
        say(f"agcluster: {error}", is_error=True)
        raise typer.Exit(USAGE_ERROR) from None
    try:
        asyncio.run(_run(work, settings))
    except AgClusterError as error:
        say(f"agcluster: {told(error)}", is_error=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def _run(work: Callable[[Store, Settings], Awaitable[None]], settings: Settings) -> None:
    async with aclosing(open_store(settings, name="agcluster-cli")) as store:
        await work(store, settings)


def _reachable(settings: Settings) -> Settings:
    if settings.redis_url is not None:
        return settings
    own = StateDir(settings.data_dir).redis_socket
    if own.is_socket():
        return settings.model_copy(update={"redis_url": socket_url(own)})
    raise SettingsRefused(
        f"{PREFIX}REDIS_URL is not set, and no `agcluster up` runs in {settings.data_dir}"
    )


def told(error: AgClusterError) -> str:
    """The error, in words for an operator."""
    if isinstance(error, ConversationNotFound):
        return f"there is no conversation {error}"
    if isinstance(error, StoreUnavailable) and is_refused(error):
        return (
            "the Redis user of AGCLUSTER_REDIS_URL may not do this: give it the URL of the API's "
            f"user ({error})"
        )
    return str(error)


async def find_conversation(store: Store, name: str) -> ConversationRecord:
    """Find it by its key, otherwise by a label that only one conversation has.

    Raises `ConversationNotFound`, `AmbiguousName` and `StoreUnavailable`.
    """
    if (record := await store.conversations.get(ConversationKey(name))) is not None:
        return record
    found = [record async for record in store.conversations.scan() if record.label == name]
    if not found:
        raise ConversationNotFound(name)
    if len(found) > 1:
        keys = ", ".join(record.conversation for record in found)
        raise AmbiguousName(f"several conversations are called {name}: {keys}")
    return found[0]


async def until(
    is_true: Callable[[], Awaitable[bool]], *, within_s: float, every_s: float = 0.1
) -> bool:
    """Whether it became true in time. Polls, because Redis reports a turn's end only to its
    replica."""
    deadline = time.monotonic() + within_s
    while not await is_true():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(every_s)
    return True


async def first(found: AsyncIterator[ConversationRecord], limit: int) -> list[ConversationRecord]:
    """The `limit` most recently used of all."""
    everything = [record async for record in found]
    everything.sort(key=lambda record: record.last_active_ms, reverse=True)
    return everything[:limit]


def print_json(value: object) -> None:
    say(json.dumps(value, indent=2, default=str))


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one per line, without empty values."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if value not in (None, "", ()):
            say(f"{name:<{width}}  {escaped(str(value))}")


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as necessary; the last one is open."""
    lines = [list(names), *([escaped(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        say("  ".join(cells).rstrip())


def at(ms: int | None) -> str | None:
    """A time of a record, for people to read."""
    if not ms:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
