"""`agcluster workers`: list workers, and tell one to leave."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from infra.cli.ops.cluster import Json, at, print_json, print_table, until, with_store
from infra.cli.terminal import say
from infra.runtime.settings import Settings
from infra.store.open import Store
from infra.store.placement.workers import WorkerRecord
from infra.wire.errors import AgClusterError
from infra.wire.ids import WorkerId

LEAVE_SLACK_S = 30.0
"""Seconds beyond the drain time that a leaving worker may take to stop many containers."""

app = typer.Typer(help="Look at workers, tell one to leave.", no_args_is_help=True)


class NoSuchWorker(AgClusterError):
    """No live worker has this name."""


class NotLeft(AgClusterError):
    """It was told to leave but is still there."""


@app.command("list")
def list_workers(as_json: Json = False) -> None:
    """List the live workers by host."""

    async def work(store: Store, _: Settings) -> None:
        found = sorted(await store.workers.alive(), key=lambda one: (one.host, one.worker))
        if as_json:
            print_json([_facts(one) for one in found])
            return
        print_table(
            ("worker", "host", "state", "used", "slots", "memory_mb", "hibernated", "spares",
             "spare_hits", "spare_misses", "pid", "version", "started"),
            (
                (w.worker, w.host, w.state.value, w.used, w.slots,
                 "-" if w.memory_mb is None else w.memory_mb, w.hibernated, w.spares,
                 w.spare_hits, w.spare_misses, w.pid, w.version, at(w.started_ms))
                for w in found
            ),
        )  # fmt: skip

    with_store(work)


@app.command("drain")
def drain(
    name: Annotated[str, typer.Argument(help="A worker's id, or a host's name: all of its own.")],
    wait: Annotated[bool, typer.Option(help="Wait until it has left.")] = True,
    retire: Annotated[
        bool, typer.Option("--retire", help="It stops its containers first: none comes after it.")
    ] = False,
) -> None:
    """Tell a worker to leave, like SIGTERM: it takes no new work and hands over what it has.

    Its process exits. Tell a supervisor not to restart it, or it comes back as another worker. With
    `--retire` or `AGCLUSTER_RETIRE_ON_EXIT` it stops its containers before it leaves.
    """

    async def work(store: Store, settings: Settings) -> None:
        alive = await store.workers.alive()
        told = [one for one in alive if name in (one.worker, one.host)]
        if not told:
            raise NoSuchWorker(f"no worker or host {name} lives: `agcluster workers list`")
        for one in told:
            heard = await store.workers.drain(one.worker, retire=retire)
            say(f"{one.worker} {'drains' if heard else 'does not listen'}")
        if wait:
            await _left(store, {one.worker for one in told}, settings.drain_timeout_s)

    with_store(work)


async def _left(store: Store, told: set[WorkerId], drain_timeout_s: float) -> None:
    async def are_gone() -> bool:
        return not told & {one.worker for one in await store.workers.alive()}

    within_s = drain_timeout_s + LEAVE_SLACK_S
    if not await until(are_gone, within_s=within_s, every_s=0.5):
        raise NotLeft(f"still there after {within_s:g} s")
    say("left")


def _facts(one: WorkerRecord) -> dict[str, Any]:
    return {**asdict(one), "state": one.state.value}
