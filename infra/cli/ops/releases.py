"""`agcluster agents publish|install|update|uninstall|search|key`: agents as signed releases."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.ops.catalogue import (
    From,
    KeyFile,
    elsewhere,
    operators_query,
    show_found,
    told_to_the_operator,
    with_catalogue,
)
from infra.cli.ops.cluster import USAGE_ERROR, Json
from infra.cli.terminal import say
from infra.profiles.installed import InstalledFolder, InstalledMark, read_release, require_later
from infra.profiles.releasing import contents_of, require_says
from infra.profiles.shipped import read_agents, shipped_agents
from infra.registry.catalogue import Catalogue
from infra.registry.records import (
    CatalogueEntry,
    EntryKind,
    EntryStatus,
    PublishedVersion,
    StatusChanged,
)
from infra.registry.remote import RemoteRegistry
from infra.releases.fields import permissions
from infra.releases.keys import PublisherKey, TrustedPublishers
from infra.releases.policy import InstalledPolicy, policy_of
from infra.releases.refused import ReleaseRefused
from infra.releases.release import RELEASE_MAX_BYTES, Release, open_release, sign_release
from infra.runtime.settings import Settings, load_settings
from infra.wire.errors import AgClusterError
from infra.wire.text.foreign import escaped

key_app = typer.Typer(help="Keys that releases are signed with.", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Option("--dir", help="The agents' folder [default: AGCLUSTER_AGENTS_DIR, or agents]."),
]


def _checked_tenants(values: list[str] | None) -> list[str] | None:
    """Raises `typer.BadParameter` for what is no tenant's name."""
    for value in values or ():
        if not re.fullmatch(r"[0-9a-f]{20}", value):
            raise typer.BadParameter(
                f"{value}: a tenant has 20 hex digits; `agcluster usage list` shows tenants"
            )
    return values


Tenants = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant",
        help="A tenant that may see it; several times. None: all may.",
        callback=_checked_tenants,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@dataclass(frozen=True)
class _Here:
    """This deployment, as far as installed agents are concerned."""

    settings: Settings
    folder: Path
    publishers: TrustedPublishers
    policy: InstalledPolicy
    installed: InstalledFolder


@dataclass(frozen=True)
class _Offer:
    """A release that may be installed, and who may see it."""

    release: Release
    tenants: tuple[str, ...]


def add_release_commands(app: typer.Typer) -> None:
    """Add them to `agcluster agents`."""
    app.add_typer(key_app, name="key")
    app.command("publish")(publish_agent)
    app.command("install")(install_agent)
    app.command("update")(update_agents)
    app.command("uninstall")(uninstall_agent)
    app.command("search")(search_agents)
    app.command("withdraw")(withdraw_agent)


@key_app.command("new")
def new_key(
    file: Annotated[Path, typer.Argument(help="The new file for the private key.")],
) -> None:
    """Make a key to sign releases with, and print its public half."""
    with told_to_the_operator():
        key = PublisherKey.new()
        key.write(file)
    say(f"The private key is in {file}; keep it secret. Those who trust you set:")
    say(f"AGCLUSTER_AGENT_PUBLISHERS=your-name={key.public}")


def publish_agent(
    name: Annotated[str, typer.Argument(help="An agent of the agents' folder.")],
    version: Annotated[str, typer.Option(help="1.2.3, or 1.2.3-beta.1; never changes again.")],
    publisher: Annotated[str, typer.Option(help="The name that others trust your key under.")],
    key: Annotated[Path, typer.Option(help="The file of `agcluster agents key new`.")],
    tenant: Tenants = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the release to this file, and publish nothing.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Sign one version of an agent and put it into the registry."""
    with told_to_the_operator():
        here = _here(folder)
        signing = PublisherKey.read(key)
        if output is None:
            here.publishers.require_own(publisher, signing)
        contents, description = contents_of(here.folder, name)
        release = sign_release(
            name=f"{publisher}/{name}",
            version=version,
            description=description,
            contents=contents,
            key=signing,
        )
        require_says(read_release(release), here.folder, name)
        if output is not None:
            output.write_bytes(release.raw)
        else:
            _publish(here.settings, release, tuple(tenant or ()))
    say(f"{release.manifest.name} {version}: {output or 'published'}")


def install_agent(
    source: Annotated[
        str, typer.Argument(help="`publisher/agent`, `publisher/agent@1.2.3`, or a release's file.")
    ],
    name: Annotated[str | None, typer.Option("--as", help="Its name here.")] = None,
    tenant: Tenants = None,
    yes: Yes = False,
    registry: From = None,
    key_file: KeyFile = None,
    folder: Folder = None,
) -> None:
    """Install an agent, after showing what it will be able to do."""
    with told_to_the_operator():
        here = _here(folder)
        remote = elsewhere(registry, key_file) if registry else None
        offer = _offer(here, source, remote=remote)
        tenants = tuple(tenant) if tenant else offer.tenants
        called = name or offer.release.manifest.agent
        _require_free(here, called)
        _install(here, called, offer.release, tenants, yes=yes)


def update_agents(
    name: Annotated[str | None, typer.Argument(help="One of them; all if absent.")] = None,
    yes: Yes = False,
    registry: From = None,
    key_file: KeyFile = None,
    folder: Folder = None,
) -> None:
    """Install the latest versions of installed agents. One that cannot be updated stays as it is,
    and the exit code is 1."""
    with told_to_the_operator():
        here = _here(folder)
        remote = elsewhere(registry, key_file) if registry else None
        faults = 0
        for called in [name] if name else here.installed.names():
            try:
                _update(here, called, remote=remote, yes=yes)
            except AgClusterError as error:
                say(f"{called} stays as it is: {error}", is_error=True)
                faults += 1
    if faults:
        raise typer.Exit(1)


def _update(here: _Here, called: str, *, remote: RemoteRegistry | None, yes: bool) -> None:
    mark = here.installed.mark_of(called)
    if mark is None:
        raise ReleaseRefused(f"no agent is installed as {called}")
    release = _offer(here, mark.name, remote=remote).release
    if release.manifest.version == mark.version:
        say(f"{called}: {mark.version} is the latest")
    else:
        _install(here, called, release, mark.tenants, yes=yes)


def uninstall_agent(
    name: Annotated[str, typer.Argument(help="The name that it has here.")],
    folder: Folder = None,
) -> None:
    """Remove an installed agent."""
    with told_to_the_operator():
        if not _here(folder).installed.uninstall(name):
            raise ReleaseRefused(f"no agent is installed as {name}")
    say(f"{name} is uninstalled")


def search_agents(
    words: Annotated[str, typer.Argument(help="A part of the name.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All versions.")] = False,
    as_json: Json = False,
) -> None:
    """List the registry's agents."""
    show_found(EntryKind.AGENT, words, everything=everything, as_json=as_json)


def withdraw_agent(
    name: Annotated[str, typer.Argument(help="`publisher/agent@1.2.3`.")],
    reason: Annotated[str, typer.Option(help="For those who look for it.")] = "",
) -> None:
    """Take one version out of the registry. Where it is installed, it stays."""
    with told_to_the_operator():
        withdraw(EntryKind.AGENT, name, reason)


def withdraw(kind: EntryKind, name: str, reason: str) -> None:
    """Mark one version as deleted. Raises `ReleaseRefused` and `FileStoreUnavailable`."""
    called, version = named(name)
    if version is None:
        raise ReleaseRefused("name the version: NAME@VERSION")
    change = StatusChanged(
        at_ms=now_ms(),
        kind=kind,
        name=called,
        version=version,
        status=EntryStatus.DELETED,
        message=reason[:500],
    )
    with_catalogue(load_settings(), lambda catalogue: catalogue.set_status(change))
    say(f"{called} {version} is withdrawn")


def named(source: str) -> tuple[str, str | None]:
    """`name@version`, or a name alone."""
    name, _, version = source.partition("@")
    return name, version or None


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def latest_or(
    catalogue: Catalogue, kind: EntryKind, source: str
) -> tuple[CatalogueEntry, bytes]:
    """The version that a source names, and its contents. Raises `ReleaseRefused`, `FileGone` and
    `FileStoreUnavailable`."""
    name, version = named(source)
    found = await catalogue.one(operators_query(kind), name, version or "latest")
    if found is None:
        raise ReleaseRefused(f"the registry has no {name} {version or ''}".rstrip())
    return found.entry, await catalogue.content(found.entry)


def _here(folder: Path | None) -> _Here:
    settings = load_settings()
    found = folder or settings.agents_dir
    publishers = TrustedPublishers(settings.agent_publishers)
    policy = policy_of(settings, agents=settings, models=settings)
    installed = InstalledFolder(found, publishers=publishers, policy=policy)
    return _Here(settings, found, publishers, policy, installed)


def _publish(settings: Settings, release: Release, tenants: tuple[str, ...]) -> None:
    manifest = release.manifest
    new = PublishedVersion.model_validate(
        {
            "at_ms": now_ms(),
            "kind": EntryKind.AGENT,
            "name": manifest.name,
            "version": manifest.version,
            "description": manifest.description,
            "tenants": tenants,
        }
    )
    with_catalogue(settings, lambda catalogue: catalogue.publish(new, release.raw))


def _offer(here: _Here, source: str, *, remote: RemoteRegistry | None = None) -> _Offer:
    """Raises `ReleaseRefused`, `FileGone`, `FileStoreUnavailable` and `OSError`."""
    if Path(source).is_file():
        with Path(source).open("rb") as file:
            return _Offer(open_release(file.read(RELEASE_MAX_BYTES + 1), here.publishers), ())
    name, version = named(source)
    tenants: tuple[str, ...] = ()
    if remote is not None:
        raw = remote.release(name, version or "latest")
    else:
        entry, raw = with_catalogue(
            here.settings, lambda catalogue: latest_or(catalogue, EntryKind.AGENT, source)
        )
        tenants, version = entry.published.tenants, entry.published.version
    release = open_release(raw, here.publishers)
    manifest = release.manifest
    if manifest.name != name or version not in (None, "latest", manifest.version):
        raise ReleaseRefused(
            f"the registry gives {manifest.name} {manifest.version} for {name} {version or ''}"
        )
    return _Offer(release, tenants)


def _require_free(here: _Here, name: str) -> None:
    if name in read_agents(here.folder).profiles:
        raise ReleaseRefused(f"there is an agent {name} of your own; choose another name (--as)")


def _install(
    here: _Here, name: str, release: Release, tenants: tuple[str, ...], *, yes: bool
) -> None:
    if (before := here.installed.mark_of(name)) is not None:
        require_later(before, release)
    profile = here.installed.looked_at(release)
    manifest = release.manifest
    say(f"{manifest.name} {manifest.version}, signed by {manifest.publisher}")
    # On one line each, so that no word of theirs looks like a line of ours.
    say(f"  {escaped(manifest.description)}")
    if before is None and here.settings.shipped_agents and name in shipped_agents():
        say(f"+ takes the place of {name}, which ships with AgCluster (--as: another name)")
    known = None if before is None else _granted(here, name)
    for line in permissions(profile, here.policy):
        say(f"{'  ' if known is None or line in known else '+ '}{escaped(line)}")
    say(f"  may be used by: {', '.join(tenants) or 'all'}")
    if not yes:
        _confirm(before)
    here.installed.install(name, release, tenants=tenants)
    say(f"{name} is installed")


def _granted(here: _Here, name: str) -> frozenset[str]:
    """What the installed version may do; nothing if it does not pass its checks any more."""
    found = here.installed.read().agents.get(name)
    return frozenset(permissions(found.profile, here.policy) if found else ())


def _confirm(before: InstalledMark | None) -> None:
    if not sys.stdin.isatty():
        say("agcluster: give --yes to install it", is_error=True)
        raise typer.Exit(USAGE_ERROR)
    typer.confirm("Update it?" if before else "Install it?", abort=True)
