"""`agcluster usage`: what tenants have used, in total, by day and by model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from infra.cli.ops.cluster import Json, print_json, print_table, with_store
from infra.runtime.settings import Settings
from infra.store.access.usage import UsageSums
from infra.store.open import Store
from infra.wire.gateway import ModelUsage
from infra.wire.ids import TenantId

COLUMNS = ("calls", "input", "output", "cache_creation", "cache_read", "spent")
"""`spent` is what counts against budgets: everything except cache reads."""

app = typer.Typer(help="Look at what tenants have used.", no_args_is_help=True)


@app.command("list")
def list_usage(
    day: Annotated[str | None, typer.Option(help="Of this day (UTC), as 20260131.")] = None,
    as_json: Json = False,
) -> None:
    """List all tenants, the largest spender first."""

    async def work(store: Store, _: Settings) -> None:
        tenants = [tenant async for tenant in store.usage.tenants()]
        found = [(t, await store.usage.of_tenant(t, day=day)) for t in tenants]
        found = [(tenant, sums) for tenant, sums in found if not sums.is_empty]
        found.sort(key=lambda one: one[1].total.usage.spent_tokens, reverse=True)
        if as_json:
            print_json({tenant: facts(sums) for tenant, sums in found})
        else:
            print_table(
                (*COLUMNS, "tenant"), ((*_row(sums.total), tenant) for tenant, sums in found)
            )

    with_store(work)


@app.command("show")
def show_usage(
    tenant: Annotated[str, typer.Argument(help="20 hex digits.")],
    days: Annotated[int, typer.Option(min=0, max=62, help="The last so many days, too.")] = 7,
    as_json: Json = False,
) -> None:
    """Show one tenant's usage by model, and by day."""

    async def work(store: Store, _: Settings) -> None:
        everything = await store.usage.of_tenant(TenantId(tenant))
        by_day = {
            day: await store.usage.of_tenant(TenantId(tenant), day=day) for day in _last(days)
        }
        if as_json:
            told = {day: facts(sums) for day, sums in by_day.items()}
            print_json({**facts(everything), "days": told})
            return
        print_usage(everything)
        typer.echo()
        print_table((*COLUMNS, "day"), ((*_row(sums.total), day) for day, sums in by_day.items()))

    with_store(work)


def print_usage(sums: UsageSums) -> None:
    """A table by model, with the sum at the end."""
    rows = [*sums.models.items(), ("all", sums.total)]
    print_table((*COLUMNS, "model"), ((*_row(used), model) for model, used in rows))


def facts(sums: UsageSums) -> dict[str, Any]:
    """The same for programs."""
    models = {model: _named(used) for model, used in sums.models.items()}
    return {**_named(sums.total), "models": models}


def _named(used: ModelUsage) -> Mapping[str, int]:
    return dict(zip(COLUMNS, _row(used), strict=True))


def _row(used: ModelUsage) -> tuple[int, ...]:
    usage = used.usage
    return (
        used.calls,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_creation_input_tokens,
        usage.cache_read_input_tokens,
        usage.spent_tokens,
    )


def _last(days: int) -> Iterator[str]:
    today = datetime.now(UTC).date()
    for ago in range(days):
        yield (today - timedelta(days=ago)).strftime("%Y%m%d")
