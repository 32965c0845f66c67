"""Generates whole pages of `docs/reference/`: the command line, the log's lines, the keys in Redis.

`python -m infra.reference.pages [--write|--check]` from the repository's root.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from infra.cli.main import app
from infra.reference.diagrams import keys
from infra.reference.generated import command
from infra.reference.log_events import LogEvent, log_events

FOLDER = Path("docs/reference")

COMMAND_HEAD = """\
# Command line

Every command of `agcluster`, with its options. Settings come from the environment or `.env`
([settings.md](settings.md)). Generated from `infra/cli/`: `make docs`.
"""
LOG_HEAD = """\
# Log lines

Everything that our programs log, by the module that says it. A field is `name=value` after the
words, or a field of its own with `AGCLUSTER_LOG_FORMAT=json`. Nothing that users, agents or files
say is logged. How to read logs: [operations.md](operations.md#logs). Generated from the source:
`make docs`.
"""
KEYS_HEAD = """\
# Keys in Redis

Everything that is kept in Redis, under the prefix `AGCLUSTER_REDIS_PREFIX` (`agc`). `<c>` is a
conversation's key, `<t>` a tenant. A time at the end is how long the key lives. Commands to look at
them: [operations.md](operations.md). Generated from `infra/store/keys.py`: `make docs`.
"""


def command_line() -> str:
    """Every command, as typer describes them."""
    told = get_docs_for_click(
        obj=typer.main.get_command(app), ctx=typer.Context(typer.main.get_command(app)),
        name="agcluster",
    )  # fmt: skip
    told = html.unescape(told).partition("\n")[2]
    told = re.sub(r"\*\*(Usage|Options|Arguments|Commands)\*\*:", r"**\1**", told)
    return f"{COMMAND_HEAD}{told.rstrip()}\n"


def log_page() -> str:
    """Every line of the log, by module."""
    lines = [LOG_HEAD.rstrip()]
    for logger, events in groupby(log_events(Path()), key=lambda event: event.logger):
        lines += ["", f"## `{logger}`", *map(_log_line, events)]
    return "\n".join(lines) + "\n"


def _log_line(event: LogEvent) -> str:
    named = ", ".join(f"`{name}`" for name in event.fields)
    return f"- {event.level} “{event.words}”" + (f": {named}" if named else "")


def key_page() -> str:
    """Every key."""
    return f"{KEYS_HEAD}\n{keys()}"


def pages() -> Mapping[Path, str]:
    """All pages as they should be."""
    return {
        FOLDER / "command-line.md": command_line(),
        FOLDER / "log-lines.md": log_page(),
        FOLDER / "redis-keys.md": key_page(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the pages, or write or check them."""
    return command(
        pages,
        printed=lambda: "\n".join(pages().values()),
        program="infra.reference.pages",
        about=__doc__,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
