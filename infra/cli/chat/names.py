"""Which conversation a terminal goes on with: the one that it had last, unless told otherwise."""

from __future__ import annotations

import json
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path

import typer

NAME_MAX_CHARS = 200


def checked_name(name: str | None) -> str | None:
    """The name, if the service takes it. Raises `typer.BadParameter`."""
    if name is None or re.fullmatch(rf"[\x20-\x7e]{{1,{NAME_MAX_CHARS}}}", name):
        return name
    raise typer.BadParameter(
        f"a name has 1 to {NAME_MAX_CHARS} characters: letters of English, digits, signs"
    )


class LastNames:
    """The last conversation with each service, in a file of the user's."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or _state_folder() / "agcluster" / "chats.json"

    def of(self, url: str, *, wanted: str | None, is_new: bool) -> str:
        """The conversation's name, which is the last one from now on."""
        known = self._read()
        name = wanted or (None if is_new else known.get(url)) or f"terminal-{uuid.uuid4().hex[:12]}"
        known[url] = name
        with suppress(OSError):  # Then the next one is a new one.
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(known))
        return name

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _state_folder() -> Path:
    given = os.environ.get("XDG_STATE_HOME")
    return Path(given) if given else Path.home() / ".local" / "state"
