"""The programs `agcluster` starts: how each is called and what it gets to see of our environment.

Programs are started as processes, never imported: what one of them imports or breaks stays there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.runtime.settings import PREFIX, Settings, as_environment

MODULES = {"api": "api.main", "worker": "worker.main", "gateway": "worker.gateway.main"}

_NOT_FOR_CHILDREN = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
"""Keys of the person at the terminal. Callers bring their own; nothing here has a use for these."""

_SECRETS = {
    "api": ("secret", "content_secret"),
    "worker": ("content_secret",),
    "gateway": ("secret",),
}
"""The worker passes keys on unopened, and the gateway reads nothing of conversations in Redis."""


@dataclass(frozen=True)
class Program:
    """One program of the group.

    `rank` orders the start (ascending) and the stop (descending). A quiet program's output is shown
    only when it ends by itself.
    """

    name: str
    command: tuple[str, ...]
    rank: int
    environ: Mapping[str, str] = field(repr=False)
    stop_timeout_s: float = 5.0
    is_quiet: bool = False


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs one of our modules with this Python.

    `-P`: a folder called `api` where the user happens to stand is not our `api`.
    """
    return (sys.executable, "-P", "-m", module, *arguments)


def bare_environment() -> dict[str, str]:
    """Our environment without settings and without the user's own keys."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) and name not in _NOT_FOR_CHILDREN
    }
    return {**kept, "PYTHONUNBUFFERED": "1"}


def environment(settings: Settings, *, program: str = "") -> dict[str, str]:
    """What a program of ours gets: the settings as decided, whatever our environment said, with
    those secrets only that it has a use for."""
    withheld = {"secret", "content_secret"}.difference(_SECRETS.get(program, ()))
    given = settings.model_copy(update=dict.fromkeys(withheld))
    # Empty and not left out: the program reads the same `.env`, where they may stand.
    empty = {PREFIX + name.upper(): "" for name in withheld}
    return {**bare_environment(), **as_environment(given), **empty}
