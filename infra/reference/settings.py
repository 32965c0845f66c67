"""Generates files from the settings: `.env.example`, `docs/reference/settings.md`, and the names
that `compose.yaml` passes on.

`python -m infra.reference.settings [env|settings|compose] [--write|--check]` from the repository's
root. A test fails if a file and `infra/runtime/settings/` differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from infra.reference.generated import apply, replace_part, wrapped
from infra.reference.readers import PROGRAMS, read_by, readers_of
from infra.runtime.settings import PREFIX, SECTIONS

ENV_HEAD = """\
# Every setting of AgCluster with its default. Copy to .env and uncomment what you change, or set
# the same names in the environment, which wins. Lists are `a, b`, pairs `a=b, c=d`, or JSON. An
# unknown AGCLUSTER_ name is refused. Generated from infra/runtime/settings/: `make docs`.
"""

COMPOSE_PART = """
# ----- Only for compose.yaml; the programs do not read these -----

# `make env` writes a .env with fresh values for AGCLUSTER_SECRET and these. Required.
# REDIS_API_PASSWORD=
# REDIS_WORKER_PASSWORD=

# For people with redis-cli (docs/reference/operations.md). Without it there is no user `ops`.
# REDIS_OPS_PASSWORD=

# Group of the Docker socket, so that the engine proxy may use it: stat -c %g /var/run/docker.sock
# DOCKER_GID=0

# Folder of this host for sockets and workspaces; the same path inside the containers. Keep it
# short.
# COMPOSE_DATA_DIR=/var/lib/agcluster

# Folder of this host with the profiles of agents (docs/reference/agents.md).
# COMPOSE_AGENTS_DIR=./infra/agents

# For the S3 server of `--profile s3`: its secret key (openssl rand -hex 32), and its image.
# S3_SECRET_KEY=
# S3_IMAGE=chrislusf/seaweedfs:latest

# How long a service that is to stop may take before it is killed: AGCLUSTER_DRAIN_TIMEOUT_S and
# some seconds more.
# COMPOSE_STOP_GRACE=45s
"""

SETTINGS_HEAD = """\
# Settings

Environment variables, or lines of a `.env` in the folder the program is started in; the environment
wins. An unknown `AGCLUSTER_` name is refused. Durations end in `_S` (seconds), sizes in `_MB` or
`_BYTES`. Lists are `a, b`, pairs `a=b, c=d`; both may be JSON. Generated from
`infra/runtime/settings/`: `make docs`.

"Read by" says which programs look at a setting: under Compose, a change restarts those services and
no other ([operations.md](operations.md#a-changed-setting)).
"""

COMPOSE_FILE = Path("compose.yaml")
SET_BY_COMPOSE = frozenset(
    PREFIX + name
    for name in (
        *("HOST", "PORT", "HOST_ID", "DATA_DIR", "REDIS_URL", "SECRET"),
        *("IDENTITY_SECRET", "OLD_SECRETS", "CONTENT_SECRET", "PUBLIC_URL"),
        *("ISOLATION", "LOG_FORMAT", "BASE_IMAGE"),
    )
)
"""Names whose value `compose.yaml` decides, or that say something else outside the containers."""


@dataclass(frozen=True)
class Entry:
    """One setting, as documented."""

    name: str
    default: str
    description: str
    choices: str
    readers: tuple[str, ...]


def sections() -> Iterator[tuple[str, list[Entry]]]:
    """The settings in their order, under the headings of their sections."""
    for section in SECTIONS:
        names = [name for name in section.__annotations__ if name in section.model_fields]
        yield section.title, [_entry(name, section.model_fields[name]) for name in names]


def env_example() -> str:
    """The text of `.env.example`: everything commented out, so that a copy changes nothing."""
    lines = [ENV_HEAD.rstrip()]
    for title, entries in sections():
        lines += ["", f"# ----- {title} -----"]
        for entry in entries:
            text = entry.description + (f" {entry.choices}" if entry.choices else "")
            lines += ["", *_wrapped(text), f"# {entry.name}={entry.default}"]
    return "\n".join(lines) + "\n" + COMPOSE_PART


def settings_page() -> str:
    """The text of `docs/reference/settings.md`."""
    lines = [SETTINGS_HEAD.rstrip()]
    for title, entries in sections():
        lines += ["", f"## {title}"]
        for entry in entries:
            text = entry.description + (f" {entry.choices}" if entry.choices else "")
            readers = ", ".join(entry.readers) or "`agcluster`"
            default = f"`{entry.default}`" if entry.default else "nothing"
            lines += ["", f"### `{entry.name}`", wrapped(text), ""]
            lines.append(wrapped(f"Default: {default}. Read by: {readers}."))
    return "\n".join(lines) + "\n"


def compose() -> str:
    """`compose.yaml` with the names of the settings that each of its programs reads."""
    passed = ""
    for program in PROGRAMS:
        passed += f"  {program}: &{program}-settings\n"
        names = [entry.name for _, entries in sections() for entry in entries]
        read = {PREFIX + name.upper() for name in read_by(program)} - set(SET_BY_COMPOSE)
        passed += "".join(f"    {name}:\n" for name in names if name in read)
    return replace_part(
        COMPOSE_FILE.read_text(),
        passed,
        begin="  # generated:settings (make docs)\n",
        end="  # /generated\n",
    )


FILES: dict[str, tuple[Path, Callable[[], str]]] = {
    "env": (Path(".env.example"), env_example),
    "settings": (Path("docs/reference/settings.md"), settings_page),
    "compose": (COMPOSE_FILE, compose),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one file, or write or check one or all."""
    parser = argparse.ArgumentParser(prog="python -m infra.reference.settings", description=__doc__)
    parser.add_argument("what", nargs="?", choices=FILES, help="default: all")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="write the files")
    mode.add_argument("--check", action="store_true", help="fail if a file differs")
    given = parser.parse_args(arguments)
    chosen = [given.what] if given.what else [*FILES]
    wanted = {path: make() for path, make in (FILES[one] for one in chosen)}
    if not given.write and not given.check:
        print("".join(wanted.values()), end="")
        return 0
    return apply(wanted, is_check=given.check)


def _entry(name: str, field: FieldInfo) -> Entry:
    return Entry(
        name=PREFIX + name.upper(),
        default=_written(field.get_default(call_default_factory=False)),
        description=field.description or "",
        choices=_choices(field),
        readers=readers_of(name),
    )


def _written(value: Any) -> str:
    """A default value as written in the environment."""
    if value is None or isinstance(value, SecretStr):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, tuple):
        parts = [str(part) for part in value]
        needs_json = any("," in part for part in parts)
        return json.dumps(parts) if needs_json else ", ".join(parts)
    if isinstance(value, float):
        return f"{value:g}" if value < 1e6 else str(int(value))
    return str(value)


def _choices(field: FieldInfo) -> str:
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "One of: " + ", ".join(member.value for member in kind) + "."
    return ""


def _wrapped(text: str, width: int = 98) -> Iterator[str]:
    line = "#"
    for word in text.split():
        if len(line) + 1 + len(word) > width:
            yield line
            line = "#"
        line += " " + word
    yield line


if __name__ == "__main__":
    sys.exit(main())
