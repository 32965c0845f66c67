"""`agcluster mcp publish|install|search|withdraw`: MCP servers in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from infra.cli.ops.catalogue import (
    From,
    KeyFile,
    elsewhere,
    show_found,
    told_to_the_operator,
    with_catalogue,
)
from infra.cli.ops.cluster import Json
from infra.cli.ops.releases import Tenants, latest_or, named, now_ms, withdraw
from infra.cli.terminal import say
from infra.profiles.places import read_document
from infra.profiles.shipped import read_agents
from infra.registry.profile_entry import ProfileEntry, entry_of
from infra.registry.records import EntryKind, PublishedVersion
from infra.registry.server_json import SERVER_JSON_MAX_BYTES, read_server_json
from infra.releases.refused import ReleaseRefused
from infra.runtime.settings import load_settings


def add_server_commands(app: typer.Typer) -> None:
    """Add them to `agcluster mcp`."""
    app.command("publish")(publish_server)
    app.command("install")(install_server)
    app.command("search")(search_servers)
    app.command("withdraw")(withdraw_server)


def publish_server(
    file: Annotated[Path, typer.Argument(help="A `server.json`.")] = Path("server.json"),
    tenant: Tenants = None,
) -> None:
    """Put an MCP server into the registry."""
    with told_to_the_operator():
        settings = load_settings()
        with file.open("rb") as opened:
            raw = opened.read(SERVER_JSON_MAX_BYTES + 1)
        server = read_server_json(raw)
        new = PublishedVersion(
            at_ms=now_ms(),
            kind=EntryKind.SERVER,
            name=server.name,
            version=server.version,
            title=server.title or "",
            description=server.description,
            tenants=tuple(tenant or ()),
        )
        with_catalogue(settings, lambda catalogue: catalogue.publish(new, raw))
    say(f"{server.name} {server.version}: published")


def install_server(
    source: Annotated[
        str, typer.Argument(help="`org.example/server`, with `@1.2.3`, or a `server.json`.")
    ],
    name: Annotated[str | None, typer.Option("--as", help="Its name in the profile.")] = None,
    values: Annotated[
        list[str] | None, typer.Option("--set", help="A value that it needs: NAME=VALUE.")
    ] = None,
    registry: From = None,
    key_file: KeyFile = None,
    agent: Annotated[
        Path | None, typer.Option(help="A profile's file to write it into [default: print it].")
    ] = None,
) -> None:
    """Make an entry of `mcp_servers` of it, for an agent's profile."""
    with told_to_the_operator():
        settings = load_settings()
        if Path(source).is_file():
            with Path(source).open("rb") as opened:
                raw = opened.read(SERVER_JSON_MAX_BYTES + 1)
        elif registry is not None:
            called, version = named(source)
            raw = elsewhere(registry, key_file).server_json(called, version or "latest")
        else:
            _, raw = with_catalogue(
                settings, lambda catalogue: latest_or(catalogue, EntryKind.SERVER, source)
            )
        entry = entry_of(read_server_json(raw), name=name, given=_pairs(values or []))
        say(_as_yaml(entry).rstrip())
        if agent is not None:
            _write(agent, entry)
            say(f"{entry.name} is in {agent}")
    for secret, meaning in entry.secrets.items():
        say(f"AGCLUSTER_MCP_SECRETS needs {secret}: {meaning}", is_error=True)


def search_servers(
    words: Annotated[str, typer.Argument(help="A part of the name.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All versions.")] = False,
    as_json: Json = False,
) -> None:
    """List the registry's MCP servers."""
    show_found(EntryKind.SERVER, words, everything=everything, as_json=as_json)


def withdraw_server(
    name: Annotated[str, typer.Argument(help="`org.example/server@1.2.3`.")],
    reason: Annotated[str, typer.Option(help="For those who look for it.")] = "",
) -> None:
    """Take one version out of the registry."""
    with told_to_the_operator():
        withdraw(EntryKind.SERVER, name, reason)


def _pairs(values: list[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if not all(found for _, found, _ in pairs):
        raise ReleaseRefused("--set takes NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _as_yaml(entry: ProfileEntry) -> str:
    text: str = yaml.safe_dump({"mcp_servers": {entry.name: entry.data}}, sort_keys=False)
    return text


def _write(file: Path, entry: ProfileEntry) -> None:
    """Put it at the end of a profile, whose comments and order stay. Raises `ReleaseRefused`,
    `ProfileRefused` and `OSError`, and leaves the file as it was then."""
    before = file.read_text()
    if "mcp_servers" in read_document(before, str(file)).data:
        raise ReleaseRefused(
            f"{file} has `mcp_servers` already. Put this there yourself:\n{_as_yaml(entry)}"
        )
    file.write_text(before.rstrip("\n") + "\n" + _as_yaml(entry))
    try:
        read_agents(file.parent)
    except BaseException:
        file.write_text(before)
        raise
