"""The `agcluster` command: everything on one machine, or one program of a deployment.

Programs are started as processes (`infra.cli.up.programs`), never imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from infra.cli.chat.command import chat
from infra.cli.doctor import examine, report
from infra.cli.ops import agents, mcp, sessions, turns, usage, workers
from infra.cli.ops.mcp_servers import add_server_commands
from infra.cli.ops.status import status
from infra.cli.terminal import Terminal, say
from infra.cli.up.command import run_up
from infra.cli.up.isolation import image_command
from infra.cli.up.programs import MODULES, python_command
from infra.runtime.settings import PREFIX, Settings, SettingsRefused, load_settings
from infra.wire.base import VERSION
from infra.wire.errors import AgClusterError

USAGE_ERROR = 2

app = typer.Typer(
    name="agcluster",
    help="An OpenAI-compatible API in front of the Claude Agent SDK, a container per conversation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(agents.app, name="agents")
add_server_commands(mcp.app)
app.add_typer(mcp.app, name="mcp")
app.add_typer(sessions.app, name="sessions")
app.add_typer(turns.app, name="turns")
app.add_typer(usage.app, name="usage")
app.add_typer(workers.app, name="workers")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs to read.")]


def print_version(asked: bool) -> None:
    """Print it and end, before anything looks for a command."""
    if asked:
        say(f"agcluster {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    show: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=print_version,
            help="Print the version and exit.",
            is_eager=True,
        ),
    ] = False,
) -> None:
    """An OpenAI-compatible API in front of the Claude Agent SDK, a container per conversation."""


def main() -> None:
    """Entry point of the `agcluster` command."""
    app()


@app.command()
def up(
    demo: Annotated[
        bool, typer.Option("--demo", help="Use the scripted model: no key, no internet.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on [default: 127.0.0.1].")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen on, 0: any free one [default: 8000]."),
    ] = None,
    isolation: Annotated[
        str | None, typer.Option(help="What agents run in: auto, docker or bubblewrap.")
    ] = None,
) -> None:
    """Run everything on this machine until Ctrl-C: Redis, gateway, worker, API."""
    given = {"host": host, "port": port, "isolation": isolation, "demo": demo or None}
    settings = _settings(given)
    terminal = Terminal()
    raise typer.Exit(_guarded(lambda: asyncio.run(run_up(settings, terminal))))


app.command()(chat)
app.command()(status)


@app.command()
def api() -> None:
    """Run one API replica in the foreground."""
    _become("api")


@app.command()
def worker(
    retire: Annotated[
        bool,
        typer.Option("--retire", help="When told to leave, stop its containers; leave nothing."),
    ] = False,
) -> None:
    """Run one worker in the foreground."""
    _become("worker", {"retire_on_exit": retire or None})


@app.command()
def gateway() -> None:
    """Run this host's gateway in the foreground."""
    _become("gateway")


@app.command()
def exporter() -> None:
    """Run what shows figures of the whole cluster to Prometheus, in the foreground."""
    _become("exporter")


@app.command(name="engine-proxy")
def engine_proxy(
    listen: Annotated[Path, typer.Option(help="Unix socket to listen on.")],
) -> None:
    """Run what stands between this host's worker and its Docker engine, in the foreground."""
    command = python_command("worker.engine_proxy.main", "--listen", str(listen))
    os.execv(command[0], command)


@app.command(name="build-image")
def build_image(
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Only when there is no image of this version.")
    ] = False,
) -> None:
    """Build the agents' image with the Docker engine."""
    command = image_command(if_missing=if_missing)
    os.execv(command[0], command)


@app.command(name="check-settings")
def check_settings(
    file: Annotated[
        Path, typer.Option(help="A file as `.env`, or the folder it may be in.")
    ] = Path(".env"),
) -> None:
    """Refuse a file with an unknown name or an invalid value.

    Each program does the same, but under Compose programs do not see names that they do not know.
    """
    found = file / ".env" if file.is_dir() else file
    if file.is_dir() and not found.exists():
        say("nothing is checked: there is no .env, and COMPOSE_ENV_FILES names no other file")
        return
    try:
        settings = load_settings({}, env_file=found)
    except SettingsRefused as error:
        say(f"agcluster: .env is refused: {error}", is_error=True)
        raise typer.Exit(USAGE_ERROR) from None
    except OSError as error:
        say(f"agcluster: {found} cannot be read: {error.strerror}", is_error=True)
        raise typer.Exit(1) from None
    say(f"{len(settings.model_fields_set)} settings, all known")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what this machine has, what is missing and how to get it."""
    try:
        settings: Settings | None = load_settings()
        refused = None
    except SettingsRefused as error:
        settings, refused = None, str(error)
    examined = asyncio.run(examine(settings, refused))
    report(examined, Terminal(), as_json=as_json)
    raise typer.Exit(0 if examined.is_fit else 1)


@app.command(name="version")
def show_version(as_json: Json = False) -> None:
    """Print the versions of AgCluster, the Agent SDK and Python."""
    versions = {
        "agcluster": VERSION,
        "claude-agent-sdk": _version_of("claude-agent-sdk"),
        "python": platform.python_version(),
    }
    if as_json:
        say(json.dumps(versions))
    else:
        for name, number in versions.items():
            say(f"{name} {number or 'not installed here (it is in the agent image)'}")


def _settings(given: Mapping[str, object]) -> Settings:
    """The environment's settings, overridden by the command line's. Ends the command if they are
    refused."""
    try:
        return load_settings({**os.environ, **_over(given)})
    except SettingsRefused as error:
        say(f"agcluster: {error}", is_error=True)
        raise typer.Exit(USAGE_ERROR) from None


def _over(given: Mapping[str, object]) -> dict[str, str]:
    """The command line's options, as settings."""
    return {PREFIX + name.upper(): str(value) for name, value in given.items() if value is not None}


def _guarded(run: Callable[[], int]) -> int:
    try:
        return run()
    except AgClusterError as error:
        say(f"agcluster: {error}", is_error=True)
        return 1


def _become(program: str, given: Mapping[str, object] | None = None) -> NoReturn:
    """Replace this process by the program, so that signals and exit codes are its own."""
    command = python_command(MODULES[program])
    os.execve(command[0], command, {**os.environ, **_over(given or {})})


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
