"""`agcluster turns`: turns for operators, by their own id or the one that a client sees."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from heapq import heappop, heappush
from itertools import groupby
from typing import Annotated, Any

import typer

from infra.cli.ops.cluster import Json, at, print_facts, print_json, print_table, with_store
from infra.cli.ops.words import a_while
from infra.cli.terminal import say
from infra.runtime.settings import Settings
from infra.store.open import Store
from infra.store.turns.turns import TurnRecord
from infra.wire.errors import MalformedMessage, TurnNotFound, UnknownMessage
from infra.wire.events import Event, TurnEnded, decode_event, is_delta
from infra.wire.ids import TurnId, turn_meant
from infra.wire.states import TurnState
from infra.wire.text.foreign import foreign

PAGE_ENTRIES = 100
LOOK_EVERY_S = 0.25
"""The log's own interval in seconds: live events are logged this late at most."""

_FAILED = (TurnState.FAILED, TurnState.INTERRUPTED, TurnState.EXPIRED)

app = typer.Typer(help="Look at turns, follow them, cancel them.", no_args_is_help=True)

Id = Annotated[
    str, typer.Argument(help="`turn_…`, or the id that a client was told (`chatcmpl-…`).")
]


@app.command("show")
def show_turn(turn: Id, as_json: Json = False) -> None:
    """Show the record of a turn. Never shows a key, or what was said."""

    async def work(store: Store, _: Settings) -> None:
        record = await _find(store, turn)
        position = await store.turns.position(record.turn)
        if as_json:
            print_json({**_facts(record), "position": position})
        else:
            print_facts({**_readable(record), "position": position})

    with_store(work)


@app.command("list")
def list_turns(
    last: Annotated[
        str, typer.Option(help="Only those of this time: 90s, 15min, 1h. They are kept an hour.")
    ] = "1h",
    failed: Annotated[
        bool, typer.Option("--failed", help="Only those that failed, were cut or gave up.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many, the newest.")] = 50,
    as_json: Json = False,
) -> None:
    """List the turns of the last time, the newest first, with how they ended."""
    since_ms = time.time() * 1000 - 1000 * _seconds(last)

    async def work(store: Store, _: Settings) -> None:
        newest: list[tuple[int, str, TurnRecord]] = []
        async for record in store.turns.scan():
            is_late = (record.ended_ms or record.created_ms) >= since_ms
            if not is_late or (failed and record.state not in _FAILED):
                continue
            heappush(newest, (record.created_ms, record.turn, record))
            if len(newest) > limit:
                heappop(newest)
        found = [record for _, _, record in sorted(newest, reverse=True)]
        if as_json:
            print_json([_facts(record) for record in found])
            return
        print_table(
            ("turn", "state", "why", "began", "took", "model", "conversation"),
            map(_row, found),
        )

    with_store(work)


@app.command("waiting")
def list_waiting(
    limit: Annotated[
        int, typer.Option(min=1, help="Show at most this many, the longest waiting.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """List the turns that wait for a worker, in the order in which they will start."""

    async def work(store: Store, _: Settings) -> None:
        found = await _waiting(store, limit)
        if as_json:
            print_json([{**_facts(r), "position": position} for position, r in found])
            return
        print_table(
            ("position", "turn", "tenant", "conversation", "created"),
            (
                (position, r.turn, r.tenant, r.conversation, at(r.created_ms))
                for position, r in found
            ),
        )

    with_store(work)


@app.command("tail")
def tail_turn(
    turn: Id,
    after: Annotated[int, typer.Option(min=0, help="Begin behind this event.")] = 0,
    follow: Annotated[bool, typer.Option(help="Wait for more until the turn ends.")] = True,
    as_json: Json = False,
) -> None:
    """Print a turn's events, and further ones as they come. This shows what users and agents
    say."""

    async def work(store: Store, _: Settings) -> None:
        record = await _find(store, turn)
        await _tail(store, record.turn, after=after, follow=follow, as_json=as_json)

    with_store(work)


@app.command("cancel")
def cancel_turn(turn: Id) -> None:
    """Cancel a turn: a waiting one ends at once, a running one within seconds."""

    async def work(store: Store, _: Settings) -> None:
        record = await _find(store, turn)
        state = await store.turns.cancel(
            record.turn, tenant=record.tenant, reason="stopped by the operator"
        )
        say(f"{record.turn} {'was' if state.is_terminal else 'is'} {state.value}")

    with_store(work)


def _seconds(told: str) -> float:
    """Of `90s`, `15min`, `1h`. Ends the command if it is none."""
    found = re.fullmatch(r"(\d+)(s|min|m|h)", told)
    if found is None:
        raise typer.BadParameter(f"{told!r} is no time: 90s, 15min or 1h")
    return int(found[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[found[2]]


def _row(record: TurnRecord) -> tuple[object, ...]:
    now_ms = time.time() * 1000
    ended_ms = record.ended_ms or now_ms
    return (
        record.turn,
        record.state.value,
        record.reason or "-",
        f"{a_while((now_ms - record.created_ms) / 1000)} ago",
        a_while((ended_ms - record.created_ms) / 1000),
        record.model,
        record.conversation,
    )


async def _waiting(store: Store, limit: int) -> list[tuple[int, TurnRecord]]:
    found = []
    for turn in await store.room.waiting(limit=limit):
        record, position = await store.turns.get(turn), await store.turns.position(turn)
        if record is not None and position is not None:  # else it has just been taken
            found.append((position, record))
    return sorted(found, key=lambda waits: waits[0])


async def _find(store: Store, turn: str) -> TurnRecord:
    record = await store.turns.get(turn_meant(turn))
    if record is None:
        raise TurnNotFound(f"there is no turn {turn}, or it is no longer kept")
    return record


async def _tail(store: Store, turn: TurnId, *, after: int, follow: bool, as_json: bool) -> None:
    while True:
        page = await store.log.read(turn, after=after, limit=PAGE_ENTRIES)
        after = page.events[-1][0] if page.events else after
        shown = page.events if as_json else _joined(page.events)
        for n, payload in shown:
            say(f"{n} {_json(payload)}" if as_json else f"{n:>6} {_line(payload)}")
        if page.entries == PAGE_ENTRIES:
            continue
        if not follow or page.state is None or page.state.is_terminal:
            return
        await asyncio.sleep(LOOK_EVERY_S)


def _joined(events: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The events, with a run of deltas of one kind as one, which has the number of the last."""
    for kind, run in groupby(events, key=lambda event: _delta_kind(event[1])):
        if kind is None:
            yield from run
            continue
        numbers, payloads = zip(*run, strict=True)
        texts = [json.loads(payload)["text"] for payload in payloads]
        yield numbers[-1], json.dumps({"type": kind, "text": "".join(texts)}).encode()


def _delta_kind(payload: bytes) -> str | None:
    if not is_delta(payload):
        return None
    try:
        told = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return told["type"] if isinstance(told.get("text"), str) else None


def _line(payload: bytes) -> str:
    """An event on one line."""
    try:
        event = decode_event(payload)
    except UnknownMessage as error:
        return f"{foreign(error.kind)} (of a later version)"
    except MalformedMessage as error:
        return f"{foreign(payload)} (no event: {error})"
    return f"{event.type:<11} {_told(event)}".rstrip()


def _json(payload: bytes) -> str:
    """The event in ASCII, because an agent's own encoding may contain characters that a terminal
    obeys."""
    try:
        return json.dumps(json.loads(payload), separators=(",", ":"))
    except (ValueError, RecursionError):
        return json.dumps({"type": "?", "raw": payload.decode("utf-8", "replace")})


def _told(event: Event) -> str:
    if isinstance(event, TurnEnded):
        error = f": {event.error.code.value}, {_said(event.error.message)}" if event.error else ""
        return f"{event.state.value}{error}"
    told: Mapping[str, Any] = event.model_dump(exclude={"type"}, exclude_none=True)
    return " ".join(
        _said(value) if isinstance(value, str) else str(value) for value in told.values()
    )


def _said(text: str) -> str:
    return foreign(text, max_chars=len(text))


def _facts(record: TurnRecord) -> dict[str, Any]:
    """The record without the sealed key, which nobody can read."""
    facts = asdict(record)
    facts["has_key"] = facts.pop("sealed_key") is not None
    facts["usage"] = record.usage.model_dump() if record.usage else None
    return facts


def _readable(record: TurnRecord) -> dict[str, Any]:
    facts = _facts(record)
    for name in ("created", "ended", "key_expires"):
        facts[name] = at(facts.pop(f"{name}_ms"))
    return facts
