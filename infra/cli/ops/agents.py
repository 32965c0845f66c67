"""`agcluster agents`: look at the profiles in the agents' folder, before replicas read them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.ops.catalogue import told_to_the_operator
from infra.cli.ops.cluster import USAGE_ERROR, Json, print_json, print_table
from infra.cli.ops.offered import installed_folder
from infra.cli.ops.releases import add_release_commands
from infra.cli.terminal import say
from infra.profiles.installed import InstalledAgent, InstalledAgents
from infra.profiles.places import ProfileRefused
from infra.profiles.schema import profile_schema_text
from infra.profiles.shipped import read_agents, shipped_agents
from infra.runtime.settings import Isolation, SettingsRefused, load_settings
from infra.wire.agents.profile import AgentProfile

app = typer.Typer(help="Look at agents' profiles.", no_args_is_help=True)
add_release_commands(app)

Folder = Annotated[
    Path | None,
    typer.Option("--dir", help="The agents' folder [default: AGCLUSTER_AGENTS_DIR, or agents]."),
]
Name = Annotated[str, typer.Argument(help="An agent's name.")]


@app.command("list")
def list_agents(folder: Folder = None, as_json: Json = False) -> None:
    """List the agents."""
    profiles, installed = _read(folder), _installed(folder)
    shipped = shipped_agents()
    own = {name: one for name, one in profiles.items() if one != shipped.get(name)}
    origins = dict.fromkeys(shipped, "AgCluster") | {
        name: f"{one.mark.name} {one.mark.version}" for name, one in installed.items()
    }
    origins |= dict.fromkeys(own, "this folder")
    everything = {**profiles, **{name: one.profile for name, one in installed.items()}, **own}
    if as_json:
        print_json(
            {
                name: _facts(profile) | _origin(installed.get(name))
                for name, profile in everything.items()
            }
        )
        return
    print_table(
        ("agent", "version", "model", "from", "description"),
        (
            (
                name,
                one.digest[:12],
                one.model or next(iter(one.models), "-"),
                origins[name],
                one.description,
            )
            for name, one in everything.items()
        ),
    )


@app.command("show")
def show_agent(name: Name, folder: Folder = None) -> None:
    """Show one agent as JSON, with what it inherits."""
    own, installed = _read(folder), _installed(folder)
    shipped = {name: one for name, one in own.items() if one == shipped_agents().get(name)}
    profiles = {**shipped, **{name: one.profile for name, one in installed.items()}}
    profiles |= {name: one for name, one in own.items() if name not in shipped}
    if name not in profiles:
        say(f"agcluster: there is no agent {name}", is_error=True)
        raise typer.Exit(1)
    print_json(_facts(profiles[name]))


@app.command("validate")
def validate_agents(folder: Folder = None) -> None:
    """Check all profiles. Each fault is named with its file, line and field."""
    own, installed = _read(folder), _installed_folder(folder)
    for line in (*installed.faults, *_not_here(own)):
        say(line, is_error=True)
    if installed.faults:
        raise typer.Exit(1)
    say(f"{len({**own, **installed.agents})} agents, all valid")


@app.command("diff")
def diff_agents(
    other: Annotated[Path, typer.Argument(help="Another agents' folder: as it was before.")],
    folder: Folder = None,
) -> None:
    """Show what differs from another folder, inheritance included. Exits with 1 if anything
    does."""
    before, now = _read(other), _read(folder)
    differing = False
    for name in sorted({*before, *now}):
        old, new = _lines(before.get(name)), _lines(now.get(name))
        for line in difflib.unified_diff(old, new, f"{name} before", name, lineterm=""):
            differing = True
            say(line)
    raise typer.Exit(1 if differing else 0)


@app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of a profile, for editors."""
    say(profile_schema_text().rstrip())


def _installed(folder: Path | None) -> Mapping[str, InstalledAgent]:
    """The installed agents; says of each that is left out why it is."""
    found = _installed_folder(folder)
    for fault in found.faults:
        say(f"left out: {fault}", is_error=True)
    return found.agents


def _installed_folder(folder: Path | None) -> InstalledAgents:
    with told_to_the_operator():
        settings = load_settings()
        return installed_folder(settings, folder or settings.agents_dir).read()


def _origin(installed: InstalledAgent | None) -> dict[str, object]:
    if installed is None:
        return {}
    mark = installed.mark
    told = {"release": mark.name, "version": mark.version, "digest": mark.digest}
    return {"installed": told | {"publisher": mark.publisher}}


def _read(folder: Path | None) -> Mapping[str, AgentProfile]:
    try:
        if folder is not None:
            if not folder.is_dir():
                raise ProfileRefused([f"{folder}: there is no such folder"])
            return read_agents(folder).profiles
        settings = load_settings()
        shipped = shipped_agents() if settings.shipped_agents else {}
        return {**shipped, **read_agents(settings.agents_dir).profiles}
    except SettingsRefused as error:
        say(f"agcluster: {error}", is_error=True)
        raise typer.Exit(USAGE_ERROR) from None
    except ProfileRefused as refused:
        for fault in refused.faults:
            say(fault, is_error=True)
        raise typer.Exit(1) from None
    except OSError as error:
        say(f"agcluster: {error.filename}: {error.strerror}", is_error=True)
        raise typer.Exit(1) from None


def _not_here(profiles: Mapping[str, AgentProfile]) -> Iterator[str]:
    """What is valid, but would not work with the settings that are seen here. Workers may have
    others."""
    imaged = {name: one.image for name, one in profiles.items() if one.image is not None}
    if not imaged:
        return
    settings = load_settings()
    for name, image in imaged.items():
        if settings.isolation is Isolation.BUBBLEWRAP:
            yield f"{name}: image: agents in bubblewrap have no images (AGCLUSTER_ISOLATION)"
        elif image not in {settings.agent_image, *settings.agent_images}:
            yield f"{name}: image: {image} is not one of AGCLUSTER_AGENT_IMAGES"


def _facts(profile: AgentProfile) -> dict[str, object]:
    return {"version": profile.digest, **profile.model_dump(mode="json", exclude_defaults=True)}


def _lines(profile: AgentProfile | None) -> list[str]:
    if profile is None:
        return []
    return json.dumps(profile.model_dump(mode="json", exclude_defaults=True), indent=2).splitlines()
