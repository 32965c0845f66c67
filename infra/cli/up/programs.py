"""The programs that `agcluster` starts: their commands, and what they get of our environment.

Programs are started as processes, never imported, so that whatever one of them imports or breaks
stays there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra import launch
from infra.runtime.settings import PREFIX, Settings, as_environment

MODULES = {
    "api": "api.main",
    "worker": "worker.main",
    "gateway": "worker.gateway.main",
    "exporter": "infra.exporter.main",
}

_NOT_FOR_CHILDREN = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
"""Keys of the person at the terminal. Callers bring their own; no program needs these."""

_ALL_SECRETS = frozenset(
    {"secret", "identity_secret", "old_secrets", "content_secret", "file_store_options"}
)
_SECRETS = {
    "api": ("secret", "identity_secret", "old_secrets", "content_secret", "file_store_options"),
    "worker": ("content_secret", "file_store_options"),
    "gateway": ("secret",),
}
"""The secrets that a program does not need: the worker passes keys on unopened, and the gateway
does not read conversations in Redis."""


@dataclass(frozen=True)
class Program:
    """One program of the group.

    `rank` orders the start (ascending) and the stop (descending). A quiet program's output is shown
    only if it exits on its own.
    """

    name: str
    command: tuple[str, ...]
    rank: int
    environ: Mapping[str, str] = field(repr=False)
    stop_timeout_s: float = 5.0
    is_quiet: bool = False


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs one of our modules with this Python.

    `-P`: a folder called `api` in the current directory must not be imported as our `api`.
    """
    return (sys.executable, "-P", launch.__file__, module, *arguments)


def bare_environment() -> dict[str, str]:
    """Our environment without settings and without the user's own keys."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) and name not in _NOT_FOR_CHILDREN
    }
    return {**kept, "PYTHONUNBUFFERED": "1"}


def environment(settings: Settings, *, program: str = "") -> dict[str, str]:
    """The environment of one of our programs: the final settings, whatever our environment said,
    with only the secrets that it needs."""
    withheld = {
        "secret",
        "identity_secret",
        "old_secrets",
        "content_secret",
        "file_store_options",
    }.difference(_SECRETS.get(program, ()))
    given = settings.model_copy(update=dict.fromkeys(withheld))
    # Empty rather than absent, because the program reads the same `.env`, which may contain them.
    empty = {PREFIX + name.upper(): "" for name in withheld}
    return {**bare_environment(), **as_environment(given), **empty}
