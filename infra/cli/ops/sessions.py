"""`agcluster sessions`: conversations for operators, with the field names of their keys."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from infra.cli.ops.cluster import (
    Json,
    at,
    find_conversation,
    first,
    print_facts,
    print_json,
    print_table,
    until,
    with_store,
)
from infra.cli.ops.usage import facts, print_usage
from infra.cli.terminal import say
from infra.runtime.settings import Settings
from infra.store.conversations.conversations import ConversationRecord
from infra.store.open import Store
from infra.wire.ids import TurnId
from infra.wire.states import ConversationState

END_SLACK_S = 2.0
"""Seconds that a delete waits for the turn's own end, beyond an interrupted agent's grace time."""

_REASON = "stopped by the operator"

app = typer.Typer(help="Look at conversations, stop them, delete them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A conversation's key, or its label.")]


@app.command("list")
def list_sessions(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    state: Annotated[ConversationState | None, typer.Option(help="Only in this state.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Show at most this many, the most recently used first.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """List conversations, the most recently used first."""

    async def work(store: Store, _: Settings) -> None:
        wanted = (
            record
            async for record in store.conversations.scan()
            if tenant in (None, record.tenant) and state in (None, record.state)
        )
        found = await first(wanted, limit)
        if as_json:
            print_json([_facts(record) for record in found])
            return
        print_table(
            ("conversation", "state", "hibernated", "turns", "last_active", "host", "tenant",
             "label"),
            (
                (r.conversation, r.state.value, _hibernated(r), r.turns, at(r.last_active_ms),
                 r.host or "-", r.tenant, r.label)
                for r in found
            ),
        )  # fmt: skip

    with_store(work)


@app.command("show")
def show_session(name: Name, as_json: Json = False) -> None:
    """Show one conversation and the ids of its newest turns."""

    async def work(store: Store, _: Settings) -> None:
        record = await find_conversation(store, name)
        turns = list(await store.conversations.turns(record.conversation))
        used = await store.usage.of_conversation(record.conversation)
        if as_json:
            print_json({**_facts(record), "usage": facts(used), "turn_ids": turns})
            return
        print_facts(_readable(record))
        if not used.is_empty:
            print_usage(used)
        for turn in turns:
            say(f"  {turn}")

    with_store(work)


@app.command("stop")
def stop_session(name: Name) -> None:
    """Cancel its turns and stop its container. The conversation is kept and can continue."""

    async def work(store: Store, _: Settings) -> None:
        record = await find_conversation(store, name)
        stopping = await store.conversations.stop(record.conversation, tenant=None, reason=_REASON)
        cancelled = f", cancels {stopping.turn}" if stopping.turn else ""
        say(f"stopping {record.conversation} (was {stopping.state.value}{cancelled})")

    with_store(work)


@app.command("delete")
def delete_session(name: Name) -> None:
    """Delete it everywhere: its memory, turns, container and files."""

    async def work(store: Store, settings: Settings) -> None:
        c = (await find_conversation(store, name)).conversation
        stopping = await store.conversations.stop(c, tenant=None, reason=_REASON)
        if (turn := stopping.turn) is not None:
            grace_s = settings.disconnect_grace_s + END_SLACK_S
            await until(lambda: _has_ended(store, turn), within_s=grace_s)
        deleted = await store.conversations.delete(c, tenant=None, reason=_REASON, is_forced=True)
        rest = f"; {deleted.host} removes its files" if deleted.host else ""
        say(f"deleted {c}{rest}")

    with_store(work)


async def _has_ended(store: Store, turn: TurnId) -> bool:
    record = await store.turns.get(turn)
    return record is None or record.state.is_terminal


def _hibernated(record: ConversationRecord) -> str:
    """Why its container was stopped early, if it was."""
    return record.hibernated.value if record.hibernated else "-"


def _facts(record: ConversationRecord) -> dict[str, Any]:
    return asdict(record)


def _readable(record: ConversationRecord) -> dict[str, Any]:
    facts = _facts(record)
    for name in ("created", "last_active", "idle_at", "hibernated_at"):
        facts[name] = at(facts.pop(f"{name}_ms"))
    return facts
